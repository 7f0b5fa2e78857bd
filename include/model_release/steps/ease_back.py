"""
The way back of a model's traffic from its canary to stable, by the router and the replicas alone.

It is at once where stable is as large as it was: every replica of its fleet is ready. It is at once too where no
replica of the canary is ready: stable is asked for each of its requests already. Else stable has as much as the part of
its replicas that is ready can carry, or what it has now if that is more; from there its share grows by STEP_PERCENT
each STEP_S, so that what scales it has time, and jumps when its replicas come back. After LONGEST_S it has all of it,
whoever is ready: readiness is what one sees from here, and the verdict stands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from model_release.environment import Environment, Replica
from model_release.errors import ControlRefused, ReplicaUnavailable
from model_release.traffic.router import Route, Router
from model_release.triton.replica import ReplicaClient

STEP_PERCENT = 10
STEP_S = 5.0
LONGEST_S = 45.0
_ASK_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """How many replicas of both fleets are ready for their versions, and how many stable's fleet has."""

    stable: int
    of: int
    canary: int


def ease_back(
    router: Router,
    environment: Environment,
    back: Route,
    *,
    ready: Callable[[Route], Ready] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """
    Raise stable's share in steps until `back`, which gives it all, may be set; `back` itself is left to the caller.

    Returns the shares that were set on the way, none where nothing had to wait. Raises what Router.set does.
    """
    shown = router.read(back.model)
    steps: list[int] = []
    if shown is None or shown.stable is None or shown.canary is None or shown.stable != back.stable:
        return steps
    share = shown.weights[shown.stable]
    ask = ready or (lambda route: ready_replicas(route, environment))
    for turn in range(int(LONGEST_S / STEP_S)):
        if share >= 100:
            break
        seen = ask(shown)
        if seen.stable >= seen.of or not seen.canary:
            break
        grown = share + STEP_PERCENT if turn else share
        share = min(100, max(grown, 100 * seen.stable // seen.of))
        weights = {shown.stable: share, shown.canary: 100 - share}
        router.set(replace(shown, epoch=back.epoch, weights=weights, mirrored={}))
        steps.append(share)
        log.warning(
            "%d of %d replicas of stable are ready for %s: it has %d %% for now",
            seen.stable,
            seen.of,
            back.model,
            share,
        )
        sleep(STEP_S)
    return steps


def ready_replicas(route: Route, environment: Environment) -> Ready:
    """Ask every replica of both fleets, side by side and for a second at most, whether it is ready for its version."""
    pair = environment.pair(route.pair)
    hasty = environment.model_copy(update={"call_timeout_s": _ASK_TIMEOUT_S})

    def is_ready(fleet: str, replica: Replica) -> bool:
        try:
            with ReplicaClient(replica, hasty) as client:
                return client.ready(route.model, route.versions[fleet])
        except (ReplicaUnavailable, ControlRefused):
            return False

    asked = [
        (fleet, replica)
        for fleet in (route.stable, route.canary)
        if fleet is not None
        for replica in pair.fleet(fleet).replicas
    ]
    with ThreadPoolExecutor(max(1, len(asked)), thread_name_prefix="ready") as pool:
        answers = list(pool.map(lambda each: is_ready(*each), asked))
    count = {fleet: 0 for fleet, _ in asked}
    for (fleet, _), answer in zip(asked, answers, strict=True):
        count[fleet] += answer
    return Ready(
        stable=count.get(str(route.stable), 0),
        of=len(pair.fleet(str(route.stable)).replicas),
        canary=count.get(str(route.canary), 0),
    )
