"""
make show-chaos: kills a release at every instant, fails its S3 at every request, and counts what did not hold.

It runs on a sandbox of its own: SeaweedFS, Envoy, two fleets of two Tritons, clients all the while.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.sandbox.chaos.faults import FaultyS3
from tests.sandbox.chaos.story import Chaos, Tally
from tests.sandbox.conftest import own_sandbox
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, quick_spec

_MOST = 400
STEPS = ("plan", "deploy", "shift", "look", "promote", "finish")

Part = Callable[[Chaos, Tally, range], None]


def main() -> int:
    """Run every part and print its figures; 0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="make show-chaos", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try only every so manieth instant")
    parser.add_argument("--first", type=int, default=0, help="begin with this instant")
    parser.add_argument("--last", type=int, default=_MOST, help="end with this instant")
    parser.add_argument("--only", default="", help="try only the parts that have these words in their names")
    asked = parser.parse_args()
    instants = range(asked.first, asked.last + 1, asked.every)
    parts: list[tuple[str, Part]] = [
        ("SIGKILL before each change of each step, then a retry", _retried),
        ("the same, deployed from the archive", _retried_cold),
        ("SIGKILL before each change of what makes a version, then a retry", _built),
        ("SIGKILL before each change of each step, then the guard", _left),
        ("SIGKILL of the guard that ends a dead release, then a guard", _guard),
        ("S3 cut before, cut after or slowed down at each request", _faulty),
    ]
    violations = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with _chaos() as chaos:
        for what, part in [each for each in parts if asked.only in each[0]]:
            tally, started = Tally(what, tell=_say), time.monotonic()
            try:
                part(chaos, tally, instants)
            finally:  # whoever interrupts it reads how far it came
                violations += len(tally.violations)
                print(
                    f"{what:<64} {tally.points:5} points {len(tally.violations):4} violations "
                    f"{time.monotonic() - started:6.0f} s",
                    flush=True,
                )
    return 1 if violations else 0


def _say(violation: str) -> None:
    print(f"    {violation}", flush=True)


@contextmanager
def _chaos() -> Iterator[Chaos]:
    with own_sandbox() as sandbox:
        model = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), sandbox.environment)
        with Clients(model):
            model.release(model.build(FIRST))
            model.release(model.build(SECOND))
        yield Chaos(model)


def _until_nothing(tally: Tally, instants: range, once: Callable[[int], object]) -> None:
    """Go through the instants until no step has so many."""
    for at in instants:
        before = tally.points
        once(at)
        if tally.points == before:
            return


def _retried(chaos: Chaos, tally: Tally, instants: range) -> None:
    _until_nothing(tally, instants, lambda at: chaos.killed_and_retried(at, tally, cold=False))


def _retried_cold(chaos: Chaos, tally: Tally, instants: range) -> None:
    _until_nothing(tally, instants, lambda at: chaos.killed_and_retried(at, tally, cold=True))


def _built(chaos: Chaos, tally: Tally, instants: range) -> None:
    _until_nothing(tally, instants, lambda at: chaos.build_killed_and_retried(at, tally))


def _left(chaos: Chaos, tally: Tally, instants: range) -> None:
    for step in STEPS:
        _until_nothing(tally, instants, lambda at, step=step: chaos.killed_and_left(step, at, tally))  # type: ignore[misc]


def _guard(chaos: Chaos, tally: Tally, instants: range) -> None:
    _until_nothing(tally, instants, lambda at: chaos.guard_killed(at, tally))


def _faulty(chaos: Chaos, tally: Tally, instants: range) -> None:
    wire = FaultyS3(chaos.environment.s3.endpoint_url or "")
    try:
        _until_nothing(tally, instants, lambda at: chaos.faulty(wire, at, tally, cold=at % 2 == 0))
    finally:
        wire.close()


if __name__ == "__main__":
    sys.exit(main())
