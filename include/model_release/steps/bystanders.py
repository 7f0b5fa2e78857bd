"""The other models that the canary's fleet serves: what they were like before the release, and whether they suffer."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from model_release.errors import MetricsUnavailable, RouterUnavailable, RouteUnreadable
from model_release.gates.bystanders import LEAST_REQUESTS, Bystander, quantile_ms, suffering
from model_release.gates.looks import Arm, difference
from model_release.ledger.looks import BystanderRecord, Bystanders
from model_release.steps.context import Step
from model_release.traffic.router import ArmCounters

log = logging.getLogger(__name__)

#: Each costs a reading of the router's counters at every look; the busiest are watched.
_MOST = 16
_P99 = 0.99


def note(step: Step, *, deploys: bool) -> None:
    """
    Keep what the router has counted of the other models on the canary's fleet; the last time before it `deploys`.

    What they did between two notes is what is usual for them. A note that was kept before stays.
    """
    kept, etag = step.looks.read_bystanders()
    if kept is not None and (kept.deployed or not deploys):
        return
    fleet = step.running.fleet
    try:
        now = _counted(step, fleet)
    except (RouterUnavailable, MetricsUnavailable, RouteUnreadable) as error:
        log.warning("the other models on %s are not watched: %s", fleet, error)
        return
    earlier = kept.models if kept is not None else {}
    for name, record in now.items():
        before = earlier.get(name)
        if before is not None and before.version == record.version:
            record.before = before.counters
    requests = {name: _before(record).requests for name, record in now.items()}
    known = [name for name in now if not deploys or requests[name] >= LEAST_REQUESTS]
    busiest = sorted(known, key=lambda name: -requests[name])[:_MOST]
    step.looks.write_bystanders(
        Bystanders(fleet=fleet, deployed=deploys, models={name: now[name] for name in busiest}), etag
    )


def look_at_bystanders(step: Step) -> tuple[str | None, dict[str, Any]]:
    """
    Add what the other models did since the look before; returns why the release has to stop, if so, and the numbers.

    A model that was released or moved itself in the meantime is watched no more. Without an answer of the router
    nothing is known and nothing is judged; so for a second watcher that was slower.
    """
    kept, etag = step.looks.read_bystanders()
    if kept is None or not kept.models:
        return None, {}
    try:
        now = _counted(step, kept.fleet, kept.models)
    except (RouterUnavailable, MetricsUnavailable, RouteUnreadable) as error:
        log.warning("no look at the other models on %s: %s", kept.fleet, error)
        return None, {}
    for name, record in kept.models.items():
        _add(record, now.get(name))
    if not step.looks.write_bystanders(kept, etag):
        return None, {}
    watched = [_watched(name, record) for name, record in kept.models.items()]
    why = suffering(watched, step.spec.canary.alpha_rollback)
    told = {each.model: _told(each, kept.models[each.model]) for each in watched if each.looks}
    return (f"another model on {kept.fleet} suffers: {why}" if why else None), told


def _counted(step: Step, fleet: str, models: Any = None) -> dict[str, BystanderRecord]:
    """Return what was counted of the models (of all by default) that are stable and have traffic on a fleet."""
    pair = step.spec.serving.fleet_pair
    found = {}
    for name in models if models is not None else step.store.folders("ledger/"):
        route = None if name == step.model else step.router.read(name)
        version = route.versions[fleet] if route and route.pair == pair and route.stable == fleet else None
        if route is not None and version is not None and route.weights[fleet]:
            counters = asdict(step.router.counters(name, pair)[fleet])
            found[name] = BystanderRecord(version=version, counters=counters)
    return found


def _add(record: BystanderRecord, now: BystanderRecord | None) -> None:
    """Add a look to a model's record, unless it was moved or the router's counters began anew."""
    if now is None or now.version != record.version:
        record.over = True
    if record.over or now is None:
        return
    since = _since(record.last or record.counters, now.counters)
    record.last = now.counters
    if since is not None and since.requests:
        record.looks.append((since.requests, since.errors))


def _since(before: dict[str, Any], after: dict[str, Any]) -> Arm | None:
    """Return what was counted in between; None when the router's counters began anew."""
    first, then = ({"fleet": ArmCounters(**counters)} for counters in (before, after))
    look = difference(first, then, stable=None, canary="fleet", t=0.0, stage=0)
    return None if look.note else look.canary


def _before(record: BystanderRecord) -> Arm:
    """Return what a model did before the deploy: since the first note, else since the router started."""
    since = _since(record.before, record.counters) if record.before is not None else None
    return since or _since({"requests": 0, "errors": 0}, record.counters) or Arm()


def _watched(name: str, record: BystanderRecord) -> Bystander:
    before = _before(record)
    return Bystander(name, (before.requests, before.errors), record.looks)


def _told(each: Bystander, record: BystanderRecord) -> dict[str, Any]:
    """Return a bystander's numbers before the deploy and since."""
    since = _since(record.counters, record.last or record.counters) or Arm()
    (n_before, bad_before), (n, bad) = each.before, each.total
    return {
        "before": {"requests": n_before, "failed": bad_before, "p99_ms": _p99(_before(record))},
        "since": {"requests": n, "failed": bad, "p99_ms": _p99(since)},
    }


def _p99(arm: Arm) -> float | None:
    return quantile_ms(arm.latency_buckets, _P99)
