"""
Beyond which bounds a request is slow for its user, while arms are sticky: fixed once a release, by looks at stable.

As the latency gate's own bounds: the data under test cannot choose them. Where too few requests were seen while the
release was prepared, the stages' own looks at stable tell, and the route is set once more when they do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from model_release.errors import RouteNotConfirmed, RouterUnavailable, RouteUnreadable
from model_release.gates import latency
from model_release.gates.looks import Look
from model_release.spec import LatencyGate
from model_release.steps.before import learned
from model_release.steps.context import Step
from model_release.steps.reading import are_told
from model_release.steps.route import apply_route, route_of
from model_release.steps.withdraw import is_withdrawn
from model_release.traffic.router import USERS

log = logging.getLogger(__name__)


def fix_what_is_slow(step: Step, stage: int) -> None:
    """Note the bounds in the ledger as soon as enough requests of stable's are known; routes have them from then on."""
    gates = [gate for gate in step.spec.canary.gates if isinstance(gate, LatencyGate)]
    able = are_told(step, stage) and USERS in step.router.capabilities
    if not gates or not able or step.running.slow_ms:
        return
    buckets: Mapping[str, int] = {}
    for look in [*learned(step), *_looks_until(step, stage)]:
        buckets = latency.pooled(buckets, look.stable.latency_buckets)
    deciding = [gate for gate in gates if not gate.dry_run] or gates
    given_ms = [bound_ms for gate in deciding for bound_ms in gate.bounds_ms or ()]
    slow = latency.slow_for_users(buckets, min(gate.slower_than for gate in deciding), given_ms)
    if slow is not None:
        step.update_running(slow_ms=slow.bounds_ms, often_ms=slow.often_ms)


def have_slow_users_told(step: Step, stage: int) -> None:
    """
    See to it that the router tells of slow users during a stage; a canary without weight has none.

    A router that cannot be written now is left to the next look, which goes on without. Raises Superseded,
    RouteTakenOver.
    """
    fix_what_is_slow(step, stage)
    state, running = step.claim.check(), step.running
    if not running.slow_ms or not are_told(step, stage) or is_withdrawn(state, stage):
        return
    wanted = route_of(state, step, canary_percent=stage)
    try:
        held = step.router.read(step.model)
        if held is not None and (held.slow_ms, held.often_ms) != (wanted.slow_ms, wanted.often_ms):
            apply_route(step, wanted)
    except (RouterUnavailable, RouteUnreadable, RouteNotConfirmed) as error:
        log.warning("the router is not asked to tell of slow users: %s", error)


def _looks_until(step: Step, stage: int) -> list[Look]:
    """Return the looks of the release's stages so far, with this one."""
    found = [step.looks.read(each)[0] for each in step.running.stages if each <= stage]
    return [Look.from_dict(each) for looks in found if looks for each in looks.looks]
