"""`python -m sandbox.show_gates [--quick] [--out FILE]`: exit code 0 when all that must hold does."""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sandbox.settings import ROOT
from sandbox.show_gates import latency, measure
from sandbox.show_gates.page import failures, page
from sandbox.show_gates.traffic import ADVANCE, CELLS, HARMFUL, HARMLESS

RUNS, QUICK_RUNS = 150, 12
_PROCESSES = 2

Job = tuple[Callable[..., list[measure.Row]], Any, Any, int, int]


def main() -> int:
    """Measure, write the page, and say what does not hold."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.show_gates", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, two cells: does it work at all?")
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="runs of a harmful scenario; twice as many of a harmless one"
    )
    parser.add_argument("--out", type=Path, default=None, help="the page (docs/gates.md, but none with --quick)")
    asked = parser.parse_args()
    started = time.monotonic()
    jobs = list(_jobs(asked.runs, quick=asked.quick))
    rows: list[measure.Row] = []
    with ProcessPoolExecutor(_PROCESSES) as pool:
        for done, found in enumerate(pool.map(_work, jobs), 1):
            rows += found
            if done % 12 == 0 or done == len(jobs):
                print(f"{done:>4} of {len(jobs)} cells, {time.monotonic() - started:.0f} s", flush=True)
    missed = failures(rows)
    out = asked.out or (None if asked.quick else ROOT / "docs" / "gates.md")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(rows, missed), encoding="utf-8")
        print(f"written: {out}")
    for miss in missed:
        print(f"does not hold: {miss}")
    return 1 if missed else 0


def _jobs(asked_runs: int, *, quick: bool) -> Iterator[Job]:
    cells = [CELLS[2]] if quick else CELLS
    runs = QUICK_RUNS if quick else asked_runs
    for cell in cells:
        for scenario in HARMLESS:
            yield measure.errors, scenario, cell, runs * (1 if quick else 2), _seed(scenario.name, cell)
        for scenario in HARMFUL:
            yield measure.errors, scenario, cell, runs, _seed(scenario.name, cell)
        for scenario in ADVANCE:
            yield measure.advance, scenario, cell, runs, _seed(f"advance {scenario.name}", cell)
        for slowdown in latency.SLOWDOWNS:
            yield measure.slow, slowdown, cell, max(runs // 3, QUICK_RUNS // 3), _seed(slowdown.name, cell)


def _seed(name: str, cell: Any) -> int:
    return zlib.crc32(f"{name} {cell}".encode())


def _work(job: Job) -> list[measure.Row]:
    function, what, cell, runs, seed = job
    return function(what, cell, runs, seed)


if __name__ == "__main__":
    raise SystemExit(main())
