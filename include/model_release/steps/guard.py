"""
guard: returns canaries whose release has died, and heals what serves. A process of its own, beside the releases.

A release renews its claim as long as it lives, by the store's clock. What it leaves when it dies, what a step that was
paused still did when it woke up, and what befell a replica meanwhile, nobody else would look at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from model_release.environment import Environment
from model_release.errors import ClaimHeld, ReleaseError, StoreUnavailable, Superseded
from model_release.messages.channel import Channels
from model_release.repository.store import ObjectStore
from model_release.steps.heal import heal
from model_release.steps.notify import deliver
from model_release.steps.orphan import return_orphan

_AT_ONCE = 4
#: Whose event it is tells it first; the guard, what nobody told for that long.
_OTHERS_TURN_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One look at every model: what was returned, what was healed, and what kept it from either."""

    returned: list[dict[str, Any]] = field(default_factory=list)
    healed: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(environment: Environment, models: Sequence[str] = (), channels: Channels | None = None) -> Round:
    """
    Look at the models once, at all of the ledger's by default: first for orphans, then at what serves.

    A problem with one model keeps it from no other; it is in the Round. Two guards at once do no harm: one gets the
    claim. Raises StoreUnavailable when the ledger cannot be listed.
    """
    returned = return_orphans(environment, models, channels)
    healed = heal_all(environment, models, channels)
    return Round(returned.returned, healed.healed, [*returned.problems, *healed.problems])


def return_orphans(environment: Environment, models: Sequence[str] = (), channels: Channels | None = None) -> Round:
    """
    Return the canaries whose release has died, and tell of it.

    Raises StoreUnavailable when the ledger cannot be listed.
    """
    store, done = ObjectStore(environment.s3), Round()
    for model in _named(store, models):
        try:
            returned = _unless_taken(model, lambda model=model: return_orphan(model, store, environment))  # type: ignore[misc]
        except ReleaseError as error:
            done.problems.append(_problem(model, error))
            if isinstance(error, StoreUnavailable):
                break  # each of the others would wait for its deadline too
        else:
            done.returned.extend([returned] if returned else [])
            _deliver(model, environment, channels, done, acted=bool(returned))
    return done


def heal_all(environment: Environment, models: Sequence[str] = (), channels: Channels | None = None) -> Round:
    """
    Heal what serves, a few models at a time: a load that hangs does not keep the others from it.

    Messages that their own process did not send, since it was killed say, are sent here.

    Raises StoreUnavailable when the ledger cannot be listed.
    """
    store, done = ObjectStore(environment.s3), Round()

    def one(model: str) -> None:
        try:
            healing = _unless_taken(model, lambda: heal(model, store, environment))
        except ReleaseError as error:
            done.problems.append(_problem(model, error))
            return
        acted = healing is not None and bool(healing.acts)
        _deliver(model, environment, channels, done, acted=acted)
        if healing is not None:
            done.healed.extend({"model": model, "act": act} for act in healing.acts)
            done.problems.extend(_problem(model, problem) for problem in healing.problems)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="heal") as pool:
        list(pool.map(one, _named(store, models)))
    return done


def _deliver(model: str, environment: Environment, channels: Channels | None, done: Round, *, acted: bool) -> None:
    """Send what the guard has to say, and what others have left unsent for a while."""
    try:
        later_s = 0.0 if acted else _OTHERS_TURN_S
        done.problems.extend(deliver(model, environment, channels, older_than_s=later_s).problems)
    except ReleaseError as error:
        done.problems.append(_problem(model, error))


def _named(store: ObjectStore, models: Sequence[str]) -> Iterable[str]:
    return models or store.folders("ledger/")


def _unless_taken(model: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (ClaimHeld, Superseded) as error:
        log.info("somebody else has %s in hand: %s", model, error)
        return None


def _problem(model: str, error: object) -> str:
    log.warning("%s: %s", model, error)
    return f"{model}: {error}"
