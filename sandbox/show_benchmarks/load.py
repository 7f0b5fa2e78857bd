"""perf_analyzer against any server that speaks KServe's HTTP in JSON, or gRPC: one process a level."""

from __future__ import annotations

import csv
import subprocess
from dataclasses import dataclass
from pathlib import Path

from model_release.benchmark import perf_analyzer
from sandbox.errors import SandboxError
from sandbox.show_benchmarks.models import Shown

_US_PER_MS = 1000
_WINDOWS = 3
_LONGER = 4
_JSON = ("--input-tensor-format", "json", "--output-tensor-format", "json")


@dataclass(frozen=True)
class System:
    """A server that is measured: its name in the tables, its address, the protocol, and the model's name there."""

    name: str
    url: str
    protocol: str
    model: str


@dataclass(frozen=True)
class Level:
    """What was seen at one level."""

    throughput_per_s: float
    p50_ms: float
    p99_ms: float


class Generator:
    """The one load generator of a show."""

    def __init__(self, command: list[str], shown: Shown, folder: Path) -> None:
        self._command, self._report = command, folder / "report.csv"
        self._inputs = folder / "inputs.json"
        perf_analyzer.write_inputs(self._inputs, shown.recorded())

    def run(self, system: System, concurrency: int, seconds: float) -> Level:
        """Load a system for some seconds, longer when a window stayed empty. Raises SandboxError without a report."""
        said = ""
        for each_s in (seconds, seconds * _LONGER, seconds * _LONGER**2):
            level, said = self._try(system, concurrency, each_s)
            if level is not None:
                return level
        message = f"perf_analyzer told nothing of {system.name} at {concurrency}: {said[-400:]}"
        raise SandboxError(message)

    def _try(self, system: System, concurrency: int, seconds: float) -> tuple[Level | None, str]:
        self._report.unlink(missing_ok=True)
        window_ms = max(200, int(seconds / _WINDOWS * 1000))
        options = ["-m", system.model, "-u", system.url, "-i", system.protocol, "-b", "1", "--sync"]
        options += ["--input-data", str(self._inputs), "--concurrency-range", f"{concurrency}:{concurrency}"]
        options += ["--measurement-mode", "time_windows", "--measurement-interval", str(window_ms)]
        options += ["--stability-percentage", "100000", "--max-trials", str(_WINDOWS), "-f", str(self._report)]
        options += _JSON if system.protocol == "http" else ()
        done = subprocess.run([*self._command, *options], capture_output=True, text=True, timeout=120, check=False)
        rows = list(csv.DictReader(self._report.read_text().splitlines())) if self._report.exists() else []
        if done.returncode != 0 or len(rows) != 1:
            return None, done.stdout + done.stderr
        row = rows[0]
        p50_ms, p99_ms = (float(row[f"{name} latency"]) / _US_PER_MS for name in ("p50", "p99"))
        return Level(float(row["Inferences/Second"]), p50_ms, p99_ms), ""
