"""The benchmark on bench: which batching serves the version best, and whether it is fast enough at all."""

from model_release.benchmark.meter import Meter, Run, Target
from model_release.benchmark.plan import candidates
from model_release.benchmark.result import BenchmarkResult
from model_release.benchmark.run import run_benchmark
from model_release.benchmark.versus import Comparison, compare

__all__ = ["BenchmarkResult", "Comparison", "Meter", "Run", "Target", "candidates", "compare", "run_benchmark"]
