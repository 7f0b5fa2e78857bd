"""The whole story of a release in one process: what the DAG does, without Airflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from model_release.environment import Environment
from model_release.errors import ClaimHeld, ReleaseError, Superseded
from model_release.identity import Kind, Mode, Release
from model_release.spec import ModelSpec
from model_release.steps import (
    approve,
    benchmark,
    deploy,
    export,
    finish,
    notify,
    plan,
    promote,
    publish,
    roll_back,
    shift,
    validate,
    watch,
)
from model_release.steps.shadow import named


@dataclass(frozen=True)
class Told:
    """What a step came to, told as the story goes on."""

    step: str
    seconds: float
    result: dict[str, Any] | None
    error: ReleaseError | None = None


Tell = Callable[[Told], None]


def run(release: Release, environment: Environment, spec: ModelSpec, tell: Tell) -> dict[str, Any]:
    """
    Release a version from plan to finish, and go back when a step fails or a gate says so.

    Returns finish's result. Raises what plan raises, else what finish raises: RolledBack, NotAsAsked, Superseded.
    """
    tell = _and_people(release.model, environment, tell)
    try:
        planned = _told("plan", tell, lambda: plan.run(release, environment, spec))
    except (ClaimHeld, Superseded):
        raise
    except ReleaseError:
        # The claim was taken before the refusal; finish gives it back and says no more than plan did.
        with suppress(ReleaseError):
            finish.run(release, environment)
        raise
    reason: str | None = None
    try:
        reason = _to_promotion(release, environment, planned, tell)
    except Superseded:
        raise
    except ReleaseError as error:
        reason = str(error)
    except BaseException:
        with suppress(ReleaseError):
            _told("roll_back", tell, lambda: roll_back.run(release, environment, "the release was interrupted"))
            _told("finish", tell, lambda: finish.run(release, environment))
        raise
    if reason is not None:
        why = reason
        _told("roll_back", tell, lambda: roll_back.run(release, environment, why))
    return _told("finish", tell, lambda: finish.run(release, environment))


def _to_promotion(release: Release, environment: Environment, planned: dict[str, Any], tell: Tell) -> str | None:
    """Go from export to promotion; returns the reason to go back if a gate gives one, of a dry run an empty one."""
    if release.kind is Kind.BUILD:
        _told("export", tell, lambda: export.run(release, environment))
        _told("validate", tell, lambda: validate.run(release, environment))
        _told("publish", tell, lambda: publish.run(release, environment))
    if not planned["skip_benchmark"]:
        _told("benchmark", tell, lambda: benchmark.run(release, environment))
    if planned["approval"] == "before_canary":
        _told("approve", tell, lambda: approve.run(release, environment))
    _told("deploy", tell, lambda: deploy.run(release, environment))
    if release.mode is Mode.DRY_RUN:
        return ""
    for stage in planned["stages"]:
        if planned["approval"] == "before_full" and stage == planned["stages"][-1]:
            _told("approve", tell, lambda: approve.run(release, environment))
        _told(f"shift {stage}", tell, lambda stage=stage: shift.run(release, environment, stage))  # type: ignore[misc]
        judged = _told(f"watch {stage}", tell, lambda stage=stage: watch.run(release, environment, stage))  # type: ignore[misc]
        if judged["action"] != "advance":
            return f"{named(stage)}: {judged['reason']}"
    _told("promote", tell, lambda: promote.run(release, environment))
    return None


def _and_people(model: str, environment: Environment, tell: Tell) -> Tell:
    """Tell a step, and whoever the spec names of what it has left in the ledger."""

    def both(told: Told) -> None:
        tell(told)
        notify.tell(model, environment)

    return both


def _told(step: str, tell: Tell, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        result = work()
    except ReleaseError as error:
        tell(Told(step, time.monotonic() - started, None, error))
        raise
    tell(Told(step, time.monotonic() - started, result))
    return result
