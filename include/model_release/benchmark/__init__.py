"""The benchmark on bench: which batching serves the version best, and whether it is fast enough at all."""

from model_release.benchmark.choose import Row, slowdown
from model_release.benchmark.run import BenchmarkResult, measure, run_benchmark

__all__ = ["BenchmarkResult", "Row", "measure", "run_benchmark", "slowdown"]
