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
from dataclasses import replace

from model_release.environment import Environment, Replica
from model_release.errors import ControlRefused, ReplicaUnavailable
from model_release.traffic.router import Route, Router
from model_release.triton.replica import ReplicaClient

STEP_PERCENT = 10
STEP_S = 5.0
LONGEST_S = 45.0
_ASK_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)


Ready = Callable[[Route, str], int]
"""Says how many replicas of a fleet are ready for the version that a route has there."""


def ease_back(
    router: Router,
    environment: Environment,
    back: Route,
    *,
    ready: Ready | None = None,
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
    share, of = shown.weights[shown.stable], len(environment.pair(shown.pair).fleet(shown.stable).replicas)
    count = ready or (lambda route, fleet: ready_replicas(route, fleet, environment))
    for turn in range(int(LONGEST_S / STEP_S)):
        if share >= 100:
            break
        stable = count(shown, shown.stable)
        if stable >= of or not count(shown, shown.canary):
            break
        grown = share + STEP_PERCENT if turn else share
        share = min(100, max(grown, 100 * stable // of))
        weights = {shown.stable: share, shown.canary: 100 - share}
        router.set(replace(shown, epoch=back.epoch, weights=weights, mirrored={}))
        steps.append(share)
        log.warning("%d of %d replicas of stable are ready for %s: it has %d %% for now", stable, of, back.model, share)
        sleep(STEP_S)
    return steps


def ready_replicas(route: Route, fleet: str, environment: Environment) -> int:
    """Ask every replica of a fleet, side by side and for a second at most, whether it is ready for its version."""
    replicas = environment.pair(route.pair).fleet(fleet).replicas
    hasty = environment.model_copy(update={"call_timeout_s": _ASK_TIMEOUT_S})

    def is_ready(replica: Replica) -> bool:
        try:
            with ReplicaClient(replica, hasty) as client:
                return client.ready(route.model, route.versions[fleet])
        except (ReplicaUnavailable, ControlRefused):
            return False

    with ThreadPoolExecutor(len(replicas), thread_name_prefix="ready") as pool:
        return sum(pool.map(is_ready, replicas))
