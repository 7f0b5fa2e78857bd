"""
A replica that a load has left unwell is started anew: one at a time, and only while others serve what it serves.

What it has to serve afterwards is what its serving prefix says, of every model there; it is awaited and proved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from model_release.environment import Fleet, Replica
from model_release.errors import ProofFailed, RecycleFailed, ReplicaUnavailable
from model_release.ledger.state import Placement, State, StateFile
from model_release.ledger.turn import Turns, TurnTaken
from model_release.repository.serving import ServingPrefix
from model_release.steps.context import Seen, Sight, Step, read_frozen_spec
from model_release.steps.serve import disable, prover, sealed_bundle, served_versions, take_off
from model_release.triton.poison import poison_of
from model_release.triton.recycler import connect
from model_release.triton.replica import ReplicaClient

_POLL_S = 0.5
_SAMPLES = 1
#: Of a server that has nothing to load.
_START_S = 60
#: Beside a replica's end and its start, for reading, proving and noting.
_BESIDE_S = 60
_LONGEST_END_S = 130


def remove(step: Step, fleet: str) -> list[str]:
    """
    Take the model off a fleet; a replica that its load has left unwell is recycled first, as it could not unload.

    Returns sentences about what was not done.
    """
    return [*_recycle_poisoned(step, fleet), *take_off(step, fleet)]


def recycle(step: Step, fleet: str, replica: Replica, why: str, *, again_after_s: float = 0) -> None:
    """
    Start a replica anew and wait until it serves what its serving prefix says, of every model, and has proved it.

    Raises RecycleFailed when the environment has no recycler, the fleet cannot spare the replica, it was recycled in
    the last `again_after_s` seconds, or it does not come back.
    """
    turns = Turns(step.store, step.spec.serving.fleet_pair, fleet)
    back_s = step.environment.load_timeout_s + _START_S
    lasts_s = _LONGEST_END_S + back_s + _BESIDE_S
    last = turns.last_recycled(replica.name)
    if last is not None and step.store.now() - last < timedelta(seconds=again_after_s):
        raise RecycleFailed(replica.name, f"it was already at {last:%H:%M:%S} UTC, and that did not help ({why})")
    try:
        with turns.turn(f"{step.model} {step.release.holder}", replica.name, lasts_s, wait_s=lasts_s):
            _require_spare(step, fleet, replica)
            step.event("recycling", fleet=fleet, replica=replica.name, reason=why)
            began = time.monotonic()
            connect(step.environment).recycle(replica)
            _await_back(step, fleet, replica, back_s)
            step.event("recycled", fleet=fleet, replica=replica.name, seconds=round(time.monotonic() - began, 1))
    except TurnTaken as taken:
        raise RecycleFailed(replica.name, f"{taken} has had the turn at {fleet} for {lasts_s:.0f} s") from None


def _recycle_poisoned(step: Step, fleet: str) -> list[str]:
    problems: list[str] = []
    for replica in step.pair.fleet(fleet).replicas:
        poison = poison_of(replica, step.model, step.environment)
        if poison is None:
            continue
        try:
            disable(step, fleet)
            recycle(step, fleet, replica, poison)
        except RecycleFailed as error:
            problems.append(f"{poison}: {error}")
    return problems


# --- whether it may be spared -------------------------------------------------------------------


def _require_spare(step: Step, fleet: str, replica: Replica) -> None:
    """Raise RecycleFailed unless every model with weight there goes on without this replica, and comes back on it."""
    others = [other for other in step.pair.fleet(fleet).replicas if other != replica]
    for sight, state in _on_pair(step):
        if sight.model != step.model and _is_at_work(state, fleet, step):
            raise RecycleFailed(replica.name, f"a release of {sight.model} is at work on {fleet}; wait for its end")
        placed = _placed(state, fleet)
        if placed is None or not _has_weight(state, fleet):
            continue
        if served_versions(sight.prefix(fleet)) != [placed.version]:
            without = f"{sight.model} version {placed.version}"
            raise RecycleFailed(replica.name, f"its serving prefix does not name {without}: it would come back without")
        if not any(_is_ready(other, sight, placed.version) for other in others):
            raise RecycleFailed(
                replica.name, f"it is the last one of {fleet} ready for {sight.model}, which has weight"
            )


def _on_pair(step: Step) -> Iterator[tuple[Sight, State]]:
    """Yield every model that is served by the step's pair, with its state."""
    for model in step.store.folders("ledger/"):
        state = StateFile(step.store, model).read()
        if state.release is None:
            continue
        spec = read_frozen_spec(step.store, model, state.release.spec_digest)
        if spec.serving.fleet_pair == step.spec.serving.fleet_pair:
            yield Seen(spec, step.environment, step.store), state


def _is_at_work(state: State, fleet: str, step: Step) -> bool:
    """Say whether a living release brings its version onto the fleet just now, or measures it there."""
    if state.claim is None or state.claim.expires_at <= step.store.now() or state.release is None:
        return False
    if fleet == "bench":
        return state.claim.phase == "benchmark"
    return state.canary is not None and state.canary.fleet == fleet and not state.release.deployed


def _placed(state: State, fleet: str) -> Placement | None:
    roles = (state.stable, state.canary, state.standby)
    return next((placed for placed in roles if placed is not None and placed.fleet == fleet), None)


def _has_weight(state: State, fleet: str) -> bool:
    """Say whether a fleet has traffic of a model, or may have."""
    shares = (state.weights.intent, state.weights.confirmed)
    return any(share is None or getattr(share, fleet) > 0 for share in shares)


def _is_ready(replica: Replica, sight: Sight, version: int) -> bool:
    try:
        with ReplicaClient(replica, sight.environment) as client:
            return client.ready(sight.model, version)
    except ReplicaUnavailable:
        return False


# --- whether it is back -------------------------------------------------------------------------


def _await_back(step: Step, fleet: str, replica: Replica, within_s: float) -> None:
    """
    Wait until the replica is ready for all that its prefix says, and has proved what has a role there.

    The prefix is read anew each time: another model's release may change what it says of that model meanwhile.
    """
    deadline = time.monotonic() + within_s
    while True:
        step.check()
        wanted = _wanted(step, fleet)
        missing = _missing(step, replica, wanted) or _unproved(_proofs(step, fleet, wanted), replica)
        if missing is None:
            return
        if time.monotonic() > deadline:
            raise RecycleFailed(replica.name, f"it was started anew, but after {within_s:g} s {missing}")
        time.sleep(_POLL_S)


def _wanted(step: Step, fleet: str) -> dict[str, list[int]]:
    """Return the versions that a fleet's prefix names, by model."""
    pair = step.spec.serving.fleet_pair
    models = step.store.folders(f"serving/{pair}/{fleet}/")
    return {model: served_versions(ServingPrefix(step.store, pair, fleet, model)) for model in models}


def _proofs(step: Step, fleet: str, wanted: dict[str, list[int]]) -> list[tuple[Sight, Placement]]:
    """Return what has a role on a fleet whose prefix names it."""
    return [
        (sight, placed)
        for sight, state in _on_pair(step)
        if (placed := _placed(state, fleet)) is not None and wanted.get(sight.model) == [placed.version]
    ]


def _missing(step: Step, replica: Replica, wanted: dict[str, list[int]]) -> str | None:
    try:
        with ReplicaClient(replica, step.environment) as client:
            if not client.live():
                return "it does not answer"
            for model, versions in wanted.items():
                for version in versions:
                    if not client.ready(model, version):
                        return f"it is not ready for {model} version {version}"
    except ReplicaUnavailable as error:
        return str(error)
    return None


def _unproved(proofs: list[tuple[Sight, Placement]], replica: Replica) -> str | None:
    for sight, placed in proofs:
        base, config = sight.archive.require(placed.version), sealed_bundle(sight, placed.version)
        prove: Any = prover(sight, base, config, samples=_SAMPLES)
        try:
            prove(Fleet(replicas=[replica]))
        except (ProofFailed, ReplicaUnavailable) as error:
            return str(error)
    return None
