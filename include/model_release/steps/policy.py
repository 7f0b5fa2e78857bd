"""What a change policy allows: freezes, and how many builds a day."""

from __future__ import annotations

from datetime import datetime, timedelta

from model_release.environment import Environment
from model_release.errors import ChangeFrozen, TooManyReleases
from model_release.identity import Kind, Mode, Release
from model_release.ledger.state import Begun, State, StateFile
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.spec.policy import frozen_at
from model_release.steps.context import Step

_DAY = timedelta(days=1)
_KEPT = 100


def refuse_start(release: Release, environment: Environment, spec: ModelSpec) -> None:
    """
    Refuse a build that may not start now, before it claims anything; a restore always may.

    A build that would reach into a freeze with its shortest bakes alone does not start either. Raises ChangeFrozen,
    TooManyReleases.
    """
    if release.kind is not Kind.BUILD:
        return
    store = ObjectStore(environment.s3)
    now = store.now()
    policies = [spec.change_policy, environment.change_policy]
    least = timedelta(seconds=len(spec.canary.stages) * spec.canary.min_bake_s)
    window = frozen_at(policies, now, least)
    if window is not None:
        raise ChangeFrozen(release.model, "starts", window.start, window.end, window.reason, now)
    own = StateFile(store, release.model).read()
    _refuse_more(release.model, spec.change_policy.max_releases_a_day, _recent(own, release, now), now)
    limit = environment.change_policy.max_releases_a_day
    if limit is not None:
        states = [StateFile(store, model).read() for model in store.folders("ledger/")]
        _refuse_more("all models", limit, [at for state in states for at in _recent(state, release, now)], now)


def _recent(state: State, release: Release, now: datetime) -> list[datetime]:
    """Return when builds of a model began in the last day, without this one's own earlier try."""
    own = release.run_id if state.model == release.model else None  # two models' runs of a date have one name
    return [begun.at for begun in state.builds if begun.at > now - _DAY and begun.run_id != own]


def _refuse_more(whose: str, limit: int | None, began: list[datetime], now: datetime) -> None:
    if limit is not None and len(began) >= limit:
        raise TooManyReleases(whose, limit, sorted(began)[-limit] + _DAY, now)


def builds_with(state: State, release: Release, at: datetime) -> list[Begun]:
    """Return the builds that began, with this one unless it is a dry run."""
    counts = release.kind is Kind.BUILD and release.mode is not Mode.DRY_RUN
    if not counts or any(begun.run_id == release.run_id for begun in state.builds):
        return state.builds
    return [*state.builds, Begun(version=release.version, run_id=release.run_id, at=at)][-_KEPT:]


def yield_to_earlier(step: Step) -> None:
    """
    Let the first go on of builds that began at one moment, as many as the environment's limit allows.

    Each was allowed to start as it did not see the others yet. Plan asks again after it has read the traffic, seconds
    later: by then all are in the ledger, in an order that all agree on, but for one that was stuck before it could
    write itself down. Raises TooManyReleases; the build is counted no more then.
    """
    limit, own = step.environment.change_policy.max_releases_a_day, (step.model, step.release.run_id)
    if limit is None or step.release.kind is not Kind.BUILD or step.release.mode is Mode.DRY_RUN:
        return
    now = step.store.now()
    states = [StateFile(step.store, model).read() for model in step.store.folders("ledger/")]
    began = sorted(
        (begun.at, state.model, begun.run_id) for state in states for begun in state.builds if begun.at > now - _DAY
    )
    place = next((place for place, (_, *whose) in enumerate(began) if tuple(whose) == own), 0)
    if place >= limit:
        others = [begun for begun in step.claim.check().builds if begun.run_id != own[1]]
        step.update(builds=others)
        _refuse_more("all models", limit, [at for at, *_ in began[:place]], now)


def refuse_advance(step: Step) -> None:
    """Refuse a build more of the traffic while nothing may change. Raises ChangeFrozen."""
    if step.release.kind is not Kind.BUILD:
        return
    now = step.store.now()
    window = frozen_at([step.spec.change_policy, step.environment.change_policy], now)
    if window is not None:
        raise ChangeFrozen(step.model, "advances", window.start, window.end, window.reason, now)
