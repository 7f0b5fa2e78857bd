"""
mend: what a fleet serves, and what lies in its serving prefix, made what was sealed again. The guard does it.

What is well is left alone: a replica that stays ill costs its neighbours nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from model_release.environment import Fleet, Replica
from model_release.errors import (
    BadModelConfig,
    BytesDiffer,
    LoadFailed,
    ProofFailed,
    RecycleFailed,
    ReleaseError,
    ReplicaUnavailable,
)
from model_release.ledger.events import Events
from model_release.ledger.state import Placement
from model_release.steps.context import Sight, Step
from model_release.steps.recycle import recycle
from model_release.steps.serve import prover, put_on, sealed_bundle
from model_release.triton import config as configs
from model_release.triton import fleet as fleets
from model_release.triton.bundle import Bundle
from model_release.triton.poison import poison_of

#: What did not mend a replica, as to end it, is not done again so soon: that was not what ails it.
_NOT_AGAIN_S = 600
_NOT_MENDED = "not mended"


def prefix_fault(sight: Sight, placed: Placement) -> str | None:
    """Say how a serving prefix differs from what is sealed: a replica born now would serve that."""
    prefix, base = sight.prefix(placed.fleet), sight.archive.require(placed.version)
    bundle = sealed_bundle(sight, placed.version)
    try:
        for part, config in bundle.by_part.items():
            text = prefix.part(part).config()
            if text is None:
                return f"its serving prefix has no config.pbtxt{_of_part(part)}"
            if configs.parse(text) != config:
                return f"its config.pbtxt{_of_part(part)} is not the sealed one"
        prefix.compare(sight.archive, base)
    except (BadModelConfig, BytesDiffer) as error:
        return str(error)
    return None


def _of_part(part: str) -> str:
    return f" of part {part}" if part else ""


def beside(sight: Sight, placed: Placement) -> list[int]:
    """Return the versions that lie beside the one that a prefix is to serve: each load downloads them too."""
    prefix = sight.prefix(placed.fleet)
    folders = [prefix, *prefix.parts().values()]
    return sorted({version for folder in folders for version in folder.versions()} - {placed.version})


def keep_only(placed: Placement) -> Callable[[Step], object]:
    """Delete those versions."""
    return lambda step: step.prefix(placed.fleet).keep_only(placed.version, step.check)


def put_on_again(placed: Placement) -> Callable[[Step], object]:
    """Copy the version from the archive again, and have every replica of the fleet load it."""

    def act(step: Step) -> object:
        base, bundle = step.archive.require(placed.version), sealed_bundle(step, placed.version)
        try:
            return put_on(step, placed.fleet, base, bundle)
        except LoadFailed:
            if prefix_fault(step, placed) is not None:
                raise
            return mend(placed)(step)

    return act


def failed_lately(sight: Sight, fleet: str, now: datetime) -> bool:
    """Say whether replicas of a fleet could not be mended a short while ago."""
    events, since = Events(sight.store, sight.model), now - timedelta(seconds=_NOT_AGAIN_S)
    for name in reversed([name for name in events.names() if name.endswith(f"-{_NOT_MENDED}")]):
        event = events.one(name)
        if datetime.fromisoformat(event["at"]) <= since:
            return False  # so are all before it
        if event["fleet"] == fleet:
            return True
    return False


def mend(placed: Placement) -> Callable[[Step], object]:
    """
    Have each replica that is not proved read anew what lies in the prefix as it was sealed, or start it anew.

    Raises what is left once all of them were seen to.
    """

    def act(step: Step) -> None:
        base, bundle = step.archive.require(placed.version), sealed_bundle(step, placed.version)
        # After an override a load is a no-op until config.pbtxt is newer; an object's time has whole seconds.
        seen_at = step.store.now()
        for part, text in bundle.texts(step.claim.epoch).items():
            step.prefix(placed.fleet).part(part).write_config(text, step.check, after=seen_at)
        prove, faults = prover(step, base, bundle), list[ReleaseError]()
        for replica in step.pair.fleet(placed.fleet).replicas:
            try:
                _mend_replica(step, placed, bundle, replica, prove)
            except (ProofFailed, RecycleFailed, ReplicaUnavailable) as fault:
                faults.append(fault)
        if faults:
            step.event(_NOT_MENDED, fleet=placed.fleet, reason="; ".join(map(str, faults)))
            raise faults[0]

    return act


def _mend_replica(
    step: Step, placed: Placement, bundle: Bundle, replica: Replica, prove: Callable[[Fleet], object]
) -> None:
    """Raises ProofFailed, RecycleFailed, ReplicaUnavailable."""
    one = Fleet(replicas=[replica])
    try:
        prove(one)
    except ProofFailed:
        why = poison_of(replica, step.model, step.environment, placed.version)
        why = why or _fails_to_load(step, placed, bundle, replica)
        if why is not None:
            recycle(step, placed.fleet, replica, why, again_after_s=_NOT_AGAIN_S)
        prove(one)


def _fails_to_load(step: Step, placed: Placement, bundle: Bundle, replica: Replica) -> str | None:
    one = Fleet(replicas=[replica])
    try:
        fleets.load_everywhere(
            one, step.model, placed.version, step.environment, check=step.check, parts=bundle.part_models
        )
    except LoadFailed as error:
        return str(error)
    return None
