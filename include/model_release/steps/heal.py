"""
heal: what the ledger says, the router, the serving prefixes and every replica show. The guard's second duty.

A replica that lost its version is told to load it, whoever holds the claim: that changes nothing that is right. All
else takes the claim, so it is left to a living release, and what is in nobody's way waits until the claim is long free.
What is well is left alone: a replica that stays ill costs its neighbours nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from model_release.environment import FLEETS, Environment, Fleet, Replica
from model_release.errors import (
    LoadFailed,
    ProofFailed,
    ReleaseError,
    ReplicaUnavailable,
    RouteNotConfirmed,
    RouterUnavailable,
    RouteUnreadable,
    StoreUnavailable,
    Superseded,
)
from model_release.identity import Kind, Release
from model_release.ledger.state import Placement, State, StateFile
from model_release.repository.store import ObjectStore
from model_release.steps.context import Seen, Sight, Step, begin, read_frozen_spec, record
from model_release.steps.mend import beside, failed_lately, keep_only, mend, prefix_fault, put_on_again
from model_release.steps.orphan import GRACE_LEASES, is_free
from model_release.steps.recycle import remove
from model_release.steps.route import apply_route, route_of
from model_release.steps.serve import await_no_requests, prover, sealed_bundle
from model_release.triton import fleet as fleets

_SEEN_BY_ROUTERS_S = 5
#: Of a replica at each look: clients are waiting behind them.
_SAMPLES = 1


@dataclass(frozen=True)
class Healing:
    """What was wrong with a model and was put right, and what was not."""

    acts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Need:
    """Something that is not as the ledger says, and what puts it right under the claim."""

    what: str
    act: Callable[[Step], object]
    waits: bool = False
    """It is in nobody's way: it waits until the claim is long free."""


def heal(model: str, store: ObjectStore, environment: Environment) -> Healing:
    """
    Compare what serves a model with the ledger, and put right what is not.

    What cannot be put right is in the problems. Raises StoreUnavailable, and Superseded or ClaimHeld when a release
    began meanwhile.
    """
    state, now, done = StateFile(store, model).read(), store.now(), Healing()
    if state.release is None:
        return done
    sight = Seen(read_frozen_spec(store, model, state.release.spec_digest), environment, store)
    ailing = _heal_replicas(sight, state, "stable", done)
    if state.canary is not None:
        if state.release.deployed:
            # What is left is its release's: it holds the advance, or goes back.
            _heal_replicas(sight, state, "canary", Healing(done.acts))
        return done
    if not is_free(state.claim, now, 0):
        return done
    ailing |= _heal_replicas(sight, state, "standby", done)
    long_free = is_free(state.claim, now, GRACE_LEASES * environment.lease_s)
    if any(long_free or not need.waits for need in _needs(sight, state, now, ailing, done)):
        _heal_under_claim(state, environment, ailing, done, all_needs=long_free)
    return done


# --- replicas, whoever has the claim -------------------------------------------------------------


def _heal_replicas(sight: Sight, state: State, role: str, done: Healing) -> set[str]:
    """Have the version of a role loaded where it is not proved; returns the fleet if a load was not enough."""
    placed: Placement | None = getattr(state, role)
    if placed is None:
        return set()
    base, bundle = sight.archive.require(placed.version), sealed_bundle(sight, placed.version)
    prove = prover(sight, base, bundle, samples=_SAMPLES)
    ailing = False
    for replica in sight.pair.fleet(placed.fleet).replicas:
        one = Fleet(replicas=[replica])
        try:
            prove(one)
        except ReplicaUnavailable as error:
            done.problems.append(str(error))
        except ProofFailed as fault:
            try:
                check = _unchanged(sight, state, role)
                fleets.load_everywhere(one, sight.model, placed.version, sight.environment, check, bundle.part_models)
                prove(one)
            except (LoadFailed, ProofFailed, ReplicaUnavailable) as error:
                done.problems.append(str(error))
                ailing = True
            else:
                _tell(sight, state, done, f"{replica.name} loaded {role} {placed.version} again: {fault}")
    return {placed.fleet} if ailing else set()


def _unchanged(sight: Sight, state: State, role: str) -> Callable[[], None]:
    """Return a check that raises Superseded once the role is another placement's."""

    def check() -> None:
        now = StateFile(sight.store, sight.model).read()
        if getattr(now, role) != getattr(state, role):
            raise Superseded(sight.model, state.epoch, now.epoch, now.claim.holder if now.claim else None)

    return check


def _tell(sight: Sight, state: State, done: Healing, act: str) -> None:
    done.acts.append(act)
    guard = Release(sight.model, state.stable.version if state.stable else 0, Kind.BUILD, "guard", by="guard")
    record(sight.store, guard, state.epoch, "healed", {"reason": act})


# --- all else, under the claim -------------------------------------------------------------------


def _heal_under_claim(
    state: State, environment: Environment, ailing: set[str], done: Healing, *, all_needs: bool
) -> None:
    """Look again with the claim in hand, and do what is needed; the claim is given back in any case."""
    running = state.release
    if running is None:
        return
    run_id = f"guard-{uuid.uuid4().hex[:12]}"
    guard = Release(state.model, running.version, Kind.BUILD, run_id, reason="it heals", by="guard")
    with begin(guard, environment, "heal", begins=True) as claimed:
        step = replace(claimed, spec_digest=running.spec_digest)
        try:
            now = step.claim.check()
            if (now.stable, now.canary, now.standby) != (state.stable, None, state.standby):
                return
            for need in list(_needs(step, now, step.store.now(), ailing, Healing())):
                if need.waits and not all_needs:
                    continue
                try:
                    need.act(step)
                except (StoreUnavailable, Superseded):
                    raise
                except ReleaseError as error:
                    done.problems.append(f"{need.what}: {error}")
                else:
                    done.acts.append(need.what)
                    step.event("healed", reason=need.what)
        finally:
            step.update(claim=None)


def _needs(sight: Sight, state: State, now: datetime, ailing: set[str], done: Healing) -> Iterator[Need]:
    """Find what is not as the ledger says; what cannot be asked is a problem."""
    yield from _of_route(sight, state, done)
    cold = _cold_standby(sight, state, now)
    if cold is not None:
        yield Need(f"standby {cold.version} is hot no longer", lambda step: _cool(step, cold), waits=True)
    roles = [placed for placed in (state.stable, state.standby) if placed is not None]
    for placed in [each for each in roles if each != cold]:
        where, fault = f"{placed.version} on {placed.fleet}", prefix_fault(sight, placed)
        if fault is not None:
            yield Need(f"{where}: {fault}", put_on_again(placed))
        elif placed.fleet in ailing and not failed_lately(sight, placed.fleet, now):
            yield Need(f"{where}: a load was not enough", mend(placed))
        elif others := beside(sight, placed):
            yield Need(f"{where}: {others} lies there too", keep_only(placed), waits=True)
    for fleet in {*FLEETS, "bench"} - {placed.fleet for placed in roles}:
        left = _left_on(sight, fleet)
        if left:
            yield Need(f"{left} was left on {fleet}", _clear(fleet), waits=True)


def _of_route(sight: Sight, state: State, done: Healing) -> Iterator[Need]:
    wanted = route_of(state, sight, canary_percent=0)

    def again(step: Step) -> None:
        apply_route(step, route_of(step.claim.check(), step, canary_percent=0))

    try:
        shown = sight.router.read(sight.model)
        if shown is None and not wanted.released:
            return
        if shown is None or replace(shown, epoch=wanted.epoch) != wanted:
            weights = dict(shown.weights) if shown else "missing"
            yield Need(f"the route was {weights} instead of {dict(wanted.weights)}", again)
            return
        sight.router.confirm(shown, _SEEN_BY_ROUTERS_S)
    except RouteNotConfirmed as error:
        yield Need(str(error), again)
    except (RouterUnavailable, RouteUnreadable) as error:
        done.problems.append(str(error))


def _cold_standby(sight: Sight, state: State, now: datetime) -> Placement | None:
    """Return the standby if its time is over: it is counted from the promotion that made it standby."""
    hot_minutes = sight.spec.standby.hot_minutes
    if state.standby is None or hot_minutes is None or not state.promotions:
        return None
    return state.standby if now - state.promotions[-1].at > timedelta(minutes=hot_minutes) else None


def _cool(step: Step, standby: Placement) -> None:
    step.update(standby=None)
    _clear(standby.fleet)(step)


def _left_on(sight: Sight, fleet: str) -> str:
    """Return what a fleet without a role still has of the model; a replica that does not answer is passed over."""
    if not sight.prefix(fleet).is_empty():
        return "the model's folder"
    for replica in sight.pair.fleet(fleet).replicas:
        if _has_loaded(replica, sight):
            return f"a loaded version ({replica.name})"
    return ""


def _has_loaded(replica: Replica, sight: Sight) -> bool:
    try:
        return bool(fleets.loaded_versions(replica, sight.model, sight.environment))
    except ReplicaUnavailable:
        return False


def _clear(fleet: str) -> Callable[[Step], object]:
    def act(step: Step) -> Any:
        await_no_requests(step, fleet)
        return remove(step, fleet)

    return act
