"""When a canary is taken to be abandoned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from model_release.identity import Kind
from model_release.ledger.state import ClaimRecord, Placement, State, WeightRecord, Weights
from model_release.steps.guard import is_abandoned

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LIVE = 10
EXPIRED = -1


def state(claim_ends_in_s: float | None, intent: int, confirmed: int | None, *, canary: bool = True) -> State:
    claim = None
    if claim_ends_in_s is not None:
        claim = ClaimRecord(
            run_id="r", clear_number=0, kind=Kind.BUILD, version=2, phase="watch 10",
            expires_at=NOW + timedelta(seconds=claim_ends_in_s),
        )  # fmt: skip
    shown = None if confirmed is None else Weights(blue=100 - confirmed, green=confirmed)
    return State(
        model="m",
        claim=claim,
        stable=Placement(fleet="blue", version=1, digest="d"),
        canary=Placement(fleet="green", version=2, digest="e") if canary else None,
        weights=WeightRecord(intent=Weights(blue=100 - intent, green=intent), confirmed=shown),
    )


@pytest.mark.parametrize(
    ("seen", "abandoned"),
    [
        (state(EXPIRED, 10, 10), True),
        (state(None, 10, 10), True),
        (state(LIVE, 10, 10), False),
        (state(EXPIRED, 10, 0), True),  # it died on the way to a weight
        (state(EXPIRED, 0, None), True),  # it died on the way back
        (state(EXPIRED, 0, 0), False),
        (state(EXPIRED, 10, 10, canary=False), False),
        (State(model="m"), False),
    ],
)
def test_a_canary_is_abandoned_when_it_may_have_traffic_and_no_claim_lives(seen: State, abandoned: bool) -> None:
    assert is_abandoned(seen, NOW) is abandoned
