"""When a canary is taken to be an orphan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from model_release.identity import Kind
from model_release.ledger.state import ClaimRecord, Placement, Running, State, WeightRecord, Weights
from model_release.steps.orphan import is_orphan

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LIVE = 10
EXPIRED = -1
LONG_EXPIRED = -1300
LEASE_S = 120


def state(
    claim_ends_in_s: float | None,
    intent: int,
    confirmed: int | None,
    *,
    canary: bool = True,
    held_for_s: float | None = None,
    judged: str | None = None,
) -> State:
    claim = None
    if claim_ends_in_s is not None:
        claim = ClaimRecord(
            run_id="r", clear_number=0, kind=Kind.BUILD, version=2, phase="watch 10",
            expires_at=NOW + timedelta(seconds=claim_ends_in_s),
            held_until=None if held_for_s is None else NOW + timedelta(seconds=held_for_s),
        )  # fmt: skip
    shown = None if confirmed is None else Weights(blue=100 - confirmed, green=confirmed)
    release = Running(
        run_id="r", clear_number=0, version=2, kind=Kind.BUILD, spec_digest="s", checkpoint="c", fleet="green",
        first_release=False, stages=[10, 100], started_at=NOW, verdicts={"10": {"action": judged}} if judged else {},
    )  # fmt: skip
    return State(
        model="m",
        claim=claim,
        release=release,
        stable=Placement(fleet="blue", version=1, digest="d"),
        canary=Placement(fleet="green", version=2, digest="e") if canary else None,
        weights=WeightRecord(intent=Weights(blue=100 - intent, green=intent), confirmed=shown),
    )


@pytest.mark.parametrize(
    ("seen", "orphan"),
    [
        (state(EXPIRED, 10, 10), True),
        (state(None, 10, 10), True),
        (state(LIVE, 10, 10), False),
        (state(EXPIRED, 10, 0), True),  # it died on the way to a weight
        (state(EXPIRED, 0, None), True),  # it died on the way back
        (state(EXPIRED, 0, 0), False),  # it may only pause between two tasks
        (state(LONG_EXPIRED, 0, 0), True),
        (state(None, 0, 0), True),
        (state(EXPIRED, 10, 10, held_for_s=60), False),  # a person decides, and the guard looks
        (state(LONG_EXPIRED, 10, 10, held_for_s=60), False),
        (state(EXPIRED, 10, 10, held_for_s=-1), True),
        (state(EXPIRED, 10, 10, held_for_s=60, judged="rollback"), True),
        (state(EXPIRED, 10, 10, held_for_s=60, judged="advance"), True),  # nobody looks at a judged stage again
        (state(LIVE, 10, 10, held_for_s=60, judged="advance"), False),
        (state(EXPIRED, 10, 10, canary=False), False),
        (State(model="m"), False),
    ],
)
def test_a_canary_is_an_orphan_when_no_claim_lives_and_nobody_holds_it(seen: State, orphan: bool) -> None:
    assert is_orphan(seen, NOW, LEASE_S) is orphan
