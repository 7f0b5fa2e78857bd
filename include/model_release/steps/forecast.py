"""What the stages of a release need at the present rate of traffic, and whether a healthy version advances in time."""

from __future__ import annotations

import logging
import time

from model_release.errors import MetricsUnavailable, RouterUnavailable
from model_release.gates.plan import Present, StagePlan, plan_stage
from model_release.spec import Canary, ErrorRateGate
from model_release.steps.context import Sight

log = logging.getLogger(__name__)

#: Between two readings of the router, from which the present rate is told.
READ_FOR_S = 3.0
_ENOUGH = 1000


def present(sight: Sight, fleet: str | None, read_for_s: float = READ_FOR_S) -> Present:
    """
    Read the router twice, `read_for_s` seconds apart: the model's requests per second, and stable's share of errors.

    Without a router that answers nothing is known, and a plan says so.
    """
    pair = sight.spec.serving.fleet_pair
    try:
        before, began = sight.router.counters(sight.model, pair), time.monotonic()
        time.sleep(read_for_s)
        after, ended = sight.router.counters(sight.model, pair), time.monotonic()
    except (RouterUnavailable, MetricsUnavailable) as error:
        log.warning("the present rate is not known: %s", error)
        return Present()
    requests = sum(after[name].requests - before[name].requests for name in after if name in before)
    shares = {}
    if fleet is not None and after[fleet].requests >= _ENOUGH:
        share = (after[fleet].errors + 0.5) / (after[fleet].requests + 1)
        shares = {gate.name: share for gate in sight.spec.canary.gates if isinstance(gate, ErrorRateGate)}
    return Present(max(0, requests) / (ended - began), shares)


def forecast(canary: Canary, stages: list[int], known: Present, *, first_release: bool) -> list[StagePlan]:
    """Return what each stage with weight needs."""
    control = canary.control_percent > 0
    return [plan_stage(canary, stage, known, first_release=first_release, control=control) for stage in stages if stage]
