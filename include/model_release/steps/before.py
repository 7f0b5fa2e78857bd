"""
Looks at stable alone, taken while a release is prepared.

They set the latency bounds, and tell how stable's bad requests clump: a judge that begins with neither is slower to
roll back. They are taken beside a step's work, from a thread that only reads the router.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from model_release.errors import MetricsUnavailable, ReleaseError, RouterUnavailable
from model_release.gates.looks import Look, difference_by_router
from model_release.steps.context import Sight, Step
from model_release.steps.reading import Routers, replicas_of

log = logging.getLogger(__name__)

#: Ten minutes at the usual interval.
MOST_LOOKS = 240
_MOST_KEPT = 16
_learned: dict[tuple[Any, ...], list[Look]] = {}


@contextmanager
def watching_stable(step: Step) -> Iterator[None]:
    """Look at stable at the spec's interval while the step works, and keep the looks beside those of earlier steps."""
    stable = step.claim.check().stable
    if stable is None:
        yield
        return
    over, looks = threading.Event(), _Stable(step, stable.fleet)
    watcher = threading.Thread(target=looks.take_until, args=(over,), name="looks at stable", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(step.environment.call_timeout_s)
        _keep(step, looks.taken())


class _Stable:
    """The looks at one fleet so far."""

    def __init__(self, sight: Sight, fleet: str) -> None:
        self._sight = sight
        self._fleet = fleet
        self._began = time.monotonic()
        self._looks: list[dict[str, Any]] = []
        self._before: Routers | None = None
        self._by_replica: dict[str, tuple[int, int]] = {}

    def take_until(self, over: threading.Event) -> None:
        """Take a look at each interval, until told that it is over."""
        while not over.is_set():
            try:
                self._take()
            except (RouterUnavailable, MetricsUnavailable) as error:
                log.info("no look at stable: %s", error)
            over.wait(self._sight.spec.canary.look_interval_s)

    def _take(self) -> None:
        pair = self._sight.spec.serving.fleet_pair
        after = self._sight.router.counters_by_router(self._sight.model, pair)
        if self._before is not None:
            t = time.monotonic() - self._began
            look = difference_by_router(self._before, after, stable=self._fleet, canary=None, t=t, stage=0)
            arms, self._by_replica = replicas_of(self._sight, self._fleet, self._by_replica)
            if not look.note:
                self._looks.append(replace(look, stable_by_replica=arms, strata=()).to_dict())
        else:
            _, self._by_replica = replicas_of(self._sight, self._fleet, {})
        self._before = after

    def taken(self) -> list[dict[str, Any]]:
        """Return the looks so far."""
        return list(self._looks)


def _keep(step: Step, looks: list[dict[str, Any]]) -> None:
    """Write the looks while the claim is the step's; without them the judge begins with less, so none fails for it."""
    if not looks:
        return
    try:
        step.check()
        step.looks.write_before([*step.looks.read_before(), *looks][-MOST_LOOKS:])
    except ReleaseError as error:
        log.warning("the looks at stable are not kept: %s", error)


def learned(step: Step) -> list[Look]:
    """Return the looks at stable that a release's first judge learns from; they change no more once it begins."""
    s3, release = step.environment.s3, step.release
    key = (s3.bucket, s3.prefix, step.model, release.version, release.holder)
    if key not in _learned:
        if len(_learned) >= _MOST_KEPT:
            _learned.clear()
        _learned[key] = [Look.from_dict(line) for line in step.looks.read_before()]
    return _learned[key]
