"""What may be asked of a release, and which order is out of date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_release.asked import spec_as_asked
from model_release.errors import AlreadyStable, AskedWrongly, ClaimHeld, OrderStale, StaleBuild, VersionRejected
from model_release.gates.judge import Judge
from model_release.identity import Kind, Mode, Release
from model_release.ledger.state import Placement, Promotion, Rejection, Running, State
from model_release.spec_files import load_spec
from model_release.steps import refusals

SPEC = load_spec(Path(__file__).parents[1] / "dags" / "model_configs" / "echo.yaml")
OLD, STABLE = 20260101000000, 20260301000000
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def release(kind: Kind = Kind.BUILD, version: int = OLD, **facts: Any) -> Release:
    return Release("echo", version, kind, "run-1", **{"reason": "it was better", **facts})


def promoted(version: int, at: datetime) -> Promotion:
    return Promotion(version=version, digest="d", kind=Kind.BUILD, decision=version, at=at, run_id="r")


def state(**facts: Any) -> State:
    stable = Placement(fleet="blue", version=STABLE, digest="d")
    return State(model="echo", stable=stable, **{"promotions": [promoted(STABLE, NOON)], **facts})


def refuse_build(asked: Release, now: State) -> None:
    """The rules for a build that read the ledger alone."""
    refusals.refuse_stable(asked, now)
    refusals.refuse_by_ledger(asked, now)


def test_bakes_that_are_asked_for_are_the_releases_and_nothing_else_is_changed() -> None:
    asked = spec_as_asked(SPEC, release(min_bake_s=7, max_bake_s=70))

    assert (asked.canary.min_bake_s, asked.canary.max_bake_s) == (7, 70)
    assert asked.canary.model_copy(update={"min_bake_s": 120, "max_bake_s": 900}) == SPEC.canary
    assert spec_as_asked(SPEC, release()).digest == SPEC.digest


def test_an_emergency_bakes_a_quarter_as_long_unless_a_bake_is_named() -> None:
    urgent = release(mode=Mode.EMERGENCY)

    assert spec_as_asked(SPEC, urgent).canary.min_bake_s == SPEC.canary.min_bake_s / 4
    named = release(mode=Mode.EMERGENCY, min_bake_s=100)
    assert spec_as_asked(SPEC, named).canary.min_bake_s == 100


def test_a_backfill_needs_no_reason_and_every_other_restore_does() -> None:
    spec_as_asked(SPEC, release(Kind.RESTORE, reason="", backfill=True))

    with pytest.raises(AskedWrongly, match=f"a restore of version {OLD} needs a reason. Nothing was started"):
        spec_as_asked(SPEC, release(Kind.RESTORE, reason=" "))


def test_an_emergency_is_judged_by_the_objectives_and_carries_no_comparison() -> None:
    facts = {"run_id": "r", "clear_number": 0, "version": OLD, "kind": Kind.BUILD, "spec_digest": "d"}
    more = {"checkpoint": "c", "fleet": "green", "first_release": False, "stages": [10, 100], "started_at": NOON}
    normal = Running(**facts, **more)

    assert not normal.judged_alone
    assert normal.model_copy(update={"mode": Mode.EMERGENCY}).judged_alone
    alone = Judge(SPEC.canary, 10, first_release=True, bounds_ms=None)
    assert alone.bounds_ms is None


@pytest.mark.parametrize(("hours", "refused"), [(-1, True), (1, False)])
def test_an_old_order_is_refused_when_another_version_was_promoted_since(hours: int, refused: bool) -> None:
    asked = release(Kind.RESTORE, asked_at=(NOON + timedelta(hours=hours)).isoformat())

    if not refused:
        refusals.refuse_by_ledger(asked, state())
        return
    with pytest.raises(OrderStale, match=rf"version {OLD} .* version {STABLE} was promoted since.*a new backfill"):
        refusals.refuse_by_ledger(asked, state())


def test_a_fresh_order_is_carried_out_whatever_was_promoted_a_moment_ago() -> None:
    refusals.refuse_by_ledger(release(Kind.RESTORE), state(promotions=[promoted(STABLE, datetime.now(UTC))]))


def test_an_old_date_is_built_for_a_backfill_alone() -> None:
    refuse_build(release(backfill=True), state())

    with pytest.raises(StaleBuild, match="with a backfill of its date or with"):
        refuse_build(release(), state())


def test_a_rejected_version_comes_back_by_a_restore_that_says_why() -> None:
    rejected = state(rejected=[Rejection(version=OLD, reason="errors", at=NOON, run_id="r")])
    refusals.refuse_by_ledger(release(Kind.RESTORE, reason="the labels were wrong"), rejected)

    for asked in (release(Kind.RESTORE, reason="", backfill=True), release(backfill=True)):
        with pytest.raises(VersionRejected, match="Only a restore that says why"):
            refusals.refuse_by_ledger(asked, rejected)


def test_what_serves_already_is_nothing_to_do_and_a_live_canary_is_named() -> None:
    canary = Placement(fleet="green", version=OLD, digest="d")

    with pytest.raises(AlreadyStable) as alone:
        refusals.refuse_stable(release(version=STABLE), state())
    with pytest.raises(AlreadyStable, match=f"To end its live canary {OLD}") as beside:
        refusals.refuse_stable(release(Kind.RESTORE, version=STABLE), state(canary=canary))

    assert (alone.value.canary, beside.value.canary) == (None, OLD)


def test_a_release_that_an_older_program_wrote_down_is_read() -> None:
    told = {"model": "echo", "version": OLD, "kind": "build", "run_id": "r", "clear_number": 0, "checkpoint": None}

    assert Release.from_dict({**told, "reason": "", "by": ""}).mode is Mode.NORMAL
    assert Release.from_dict(release(mode=Mode.DRY_RUN).to_dict()) == release(mode=Mode.DRY_RUN)


def test_a_refusal_that_waits_is_one_that_another_try_may_help() -> None:
    assert ClaimHeld("echo", "other#0", "plan", 10).retryable
    assert not OrderStale("echo", OLD, "then", STABLE, "since").retryable
