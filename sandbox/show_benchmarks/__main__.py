"""`python -m sandbox.show_benchmarks batching | tuner | router | repeatability`: measure, and write its section."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from model_release.benchmark.search import MOST_RUNS
from model_release.errors import ReleaseError
from sandbox.errors import SandboxError
from sandbox.show_benchmarks import batching, router, tuner
from sandbox.show_benchmarks.models import MODELS, Shown
from sandbox.show_benchmarks.page import PAGE, say, write_section

_VENV = Path(sys.executable).parent.parent
#: What `--small` leaves of a show: that it works, and no more.
_SMALL_S, _SMALL_LEVELS = 0.6, (4,)


def main() -> int:
    """Run one show; 0 when it was measured."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.show_benchmarks", description=__doc__)
    parser.add_argument("what", choices=sorted(_SHOWS))
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--small", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--onnx", type=Path, help="a folder that keeps the exported models")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and with it the servers that it started
    title, show = _SHOWS[given.what]
    shown = [MODELS[model] for model in given.models]
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for heading, some in _sections(title, shown):
                write_section(heading, show(some, given.onnx or folder, folder, given.small), given.page)
        except (ReleaseError, SandboxError) as error:
            say(f"{given.what}: {error}")
            return 1
    return 0


def _sections(title: str, shown: list[Shown]) -> list[tuple[str, list[Shown]]]:
    """Return what is measured for which section: the tuner takes so long that each model has one of its own."""
    if title == _SHOWS["tuner"][0]:
        return [(f"{title}: {each.name}", [each]) for each in shown]
    return [(title, shown)]


def _fresh(folder: Path, name: str) -> Path:
    place = folder / f"on-{name}"
    place.mkdir()
    return place


def _batching(shown: list[Shown], onnx: Path, folder: Path, small: bool) -> str:
    levels, rounds, seconds = (_SMALL_LEVELS, 1, _SMALL_S) if small else ((1, 2, 4, 8, 16, 32, 64), 3, 2.0)
    found = [
        batching.measure(
            each, each.export(onnx), _fresh(folder, each.name), levels=levels, rounds=rounds, seconds=seconds
        )
        for each in shown
    ]
    return batching.page(found)


def _tuner(shown: list[Shown], onnx: Path, folder: Path, small: bool) -> str:
    levels, repeats, seconds = (_SMALL_LEVELS, 1, _SMALL_S) if small else ((8, 32), MOST_RUNS, 1.2)
    grid = tuner.GRID[:2] if small else tuner.GRID
    (each,) = shown
    place = _fresh(folder, each.name)
    found = tuner.measure(each, each.export(onnx), place, levels=levels, repeats=repeats, seconds=seconds, grid=grid)
    return tuner.page(found)


def _router(shown: list[Shown], onnx: Path, folder: Path, small: bool) -> str:
    levels, rounds, seconds = (_SMALL_LEVELS, 1, _SMALL_S) if small else ((1, 8), 7, 3.0)
    parts = []
    for each in shown[:1]:
        place = _fresh(folder, each.name)
        found = router.measure(each, each.export(onnx), place, _VENV, levels=levels, rounds=rounds, seconds=seconds)
        parts.append(router.page(each.name, found))
    return "\n".join(parts)


def _repeatability(shown: list[Shown], onnx: Path, folder: Path, small: bool) -> str:
    levels, budget_s, times = (_SMALL_LEVELS, 5.0, 2) if small else ((8, 32), 60.0, 5)
    parts = []
    for each in shown[:1]:
        place = _fresh(folder, each.name)
        found = tuner.repeat(each, each.export(onnx), place, levels=levels, budget_s=budget_s, times=times)
        parts.append(tuner.repeated_page(each.name, found))
    return "\n".join(parts)


_SHOWS: dict[str, tuple[str, Callable[[list[Shown], Path, Path, bool], str]]] = {
    "batching": ("Batching on against off, and Triton against FastAPI", _batching),
    "tuner": ("The tuner against brute force", _tuner),
    "router": ("What the router costs", _router),
    "repeatability": ("The same tuning five times", _repeatability),
}

if __name__ == "__main__":
    sys.exit(main())
