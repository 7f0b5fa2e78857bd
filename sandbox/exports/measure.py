"""Cases in child processes: a crash or a case that hangs is a row of the table, not the end of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from sandbox.exports.child import RESULT
from sandbox.settings import ROOT

_MOST_S = 300
#: What the comparison with a hand-written script is made on: large and small, with and without dynamic axes.
COMPARED = ("digits_cnn", "crepe_full", "minilm", "gpt2", "resnet", "wav2vec2")

Row = dict[str, Any]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)


def run_case(kind: str, name: str, most_s: float = _MOST_S) -> Row:
    """Run one case in a process of its own; what it found, or how it ended."""
    with TemporaryDirectory() as folder:
        if kind in ("measure", "plain"):
            written = _run("write", name, Path(folder), most_s)
            if not written["passed"]:
                return written
        return _run(kind, name, Path(folder), most_s)


def _run(kind: str, name: str, folder: Path, most_s: float) -> Row:
    command = [sys.executable, "-m", "sandbox.exports.child", kind, name, str(folder)]
    # One thread each, so that times do not hang on what else the cores do.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = folder / RESULT
    result.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=most_s
        )
    except subprocess.TimeoutExpired:
        return _crashed(f"no end within {most_s:g} s")
    if done.returncode == 0 and result.exists():
        return dict(json.loads(result.read_text()))
    lines = done.stderr.strip().splitlines() or ["it wrote nothing"]
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = f"signal {signal.Signals(-done.returncode).name}"
    return _crashed(f"{how}; {lines[-1][:300]}")


def _crashed(how: str) -> Row:
    """Return the row of a case without a result, whichever kind it is."""
    return {"passed": False, "failures": [f"crashed: {how}"], "error": "crashed", "sentence": how, "right": False}


def measure_all(names: Iterable[str]) -> dict[str, Row]:
    """Export and prove architectures, as many at a time as there are cores."""

    def run(name: str) -> Row:
        row = run_case("measure", name)
        if row["passed"]:
            say(f"{name:<20} equal, export {row['export_s']:.1f} s, validate {row['validate_s']:.1f} s")
        else:
            say(f"{name:<20} FAILED: {'; '.join(row['failures'])}")
        return row

    return _on_all_cores(run, names)


def refuse_all(names: Iterable[str]) -> dict[str, Row]:
    """Run what must be refused, as many at a time as there are cores."""

    def run(name: str) -> Row:
        row = run_case("refuse", name)
        say(f"{name:<20} {'refused' if row['right'] else 'NOT REFUSED AS IT SHOULD BE'}: {row['error']}")
        return row

    return _on_all_cores(run, names)


def _on_all_cores(run: Callable[[str], Row], names: Iterable[str]) -> dict[str, Row]:
    """Return the rows by name, in the order of the names."""
    listed = list(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(listed, pool.map(run, listed), strict=True))


def compare_all(names: Iterable[str]) -> dict[str, tuple[Row, Row]]:
    """Return (ours, by hand) for each architecture, in alternating order, one process at a time."""
    pairs = {}
    for number, name in enumerate(names):
        order = ("measure", "plain") if number % 2 == 0 else ("plain", "measure")
        found = {kind: run_case(kind, name) for kind in order}
        ours, by_hand = pairs[name] = (found["measure"], found["plain"])
        if usable(ours, by_hand):
            say(f"{name:<20} {ours['work_s'] / by_hand['work_s']:.2f} times the time of a hand-written script")
        else:
            say(f"{name:<20} not comparable: {ours['failures']} {by_hand['failures']}")
    return pairs


def usable(ours: Row, by_hand: Row) -> bool:
    """Say whether both sides came to an end, the script with right answers or not, so that a ratio means something."""
    return bool(ours["passed"] and "work_s" in by_hand)


def ratios(pairs: dict[str, tuple[Row, Row]], figure: str) -> tuple[float, float]:
    """Return (median, worst) of ours / by hand over the architectures; NaN where none can be compared."""
    found = [a[figure] / b[figure] for a, b in pairs.values() if usable(a, b)]
    return (median(found), max(found)) if found else (float("nan"), float("nan"))
