"""Retention's rule: beyond the count and beyond the days, and never what serves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_release.errors import VersionNotFound, VersionPruned
from model_release.ledger.state import Placement, Promotion, State
from model_release.repository.prune import Found, Policy, Verdict, judge
from model_release.steps.abort import target

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def sealed(version: int, days_ago: float, **more: Any) -> Found:
    at = NOW - timedelta(days=days_ago)
    return Found(version, 10, at, at, **more)


def half(version: int, days_ago: float) -> Found:
    return Found(version, 10, NOW - timedelta(days=days_ago))


def gone(found: list[Found], policy: Policy, **facts: Any) -> list[int]:
    return [each.version for each in verdicts(found, policy, **facts) if each.goes]


def verdicts(found: list[Found], policy: Policy, **facts: Any) -> list[Verdict]:
    given = {"held": {}, "promoted": [], "promoted_at": {}, **facts}
    return judge(found, given["held"], given["promoted"], given["promoted_at"], policy, NOW)


def test_a_version_goes_only_when_it_is_beyond_both_the_count_and_the_days() -> None:
    old, young = sealed(1, 100), sealed(2, 50)
    assert gone([old, young, sealed(3, 1)], Policy(1, 90)) == [1]
    assert gone([old, young, sealed(3, 1)], Policy(3, 90)) == []
    assert gone([old, young, sealed(3, 1)], Policy(1, 120)) == []


def test_what_is_held_stays_at_any_age_and_says_why() -> None:
    found = verdicts([sealed(1, 999), sealed(2, 999), sealed(3, 1)], Policy(1, 0), held={1: "stable on blue"})
    assert [(each.version, each.goes) for each in found] == [(3, False), (2, True), (1, False)]
    assert found[2].why == "stable on blue"


def test_the_newest_promoted_stay_as_targets_and_a_promotion_is_a_use() -> None:
    found = [sealed(version, 999) for version in range(1, 6)]
    assert gone(found, Policy(1, 90), promoted=[2, 1]) == [4, 3, 1]
    assert gone(found, Policy(1, 90), promoted_at={3: NOW - timedelta(days=2)}) == [4, 2, 1]


def test_a_half_written_version_takes_no_place_and_is_never_swept_within_a_day() -> None:
    assert gone([half(9, 0.5), half(8, 2), sealed(7, 999), sealed(6, 999)], Policy(1, 0)) == [8, 6]


def test_what_was_begun_is_finished_whatever_the_policy_has_become() -> None:
    assert gone([sealed(1, 1, condemned=True), sealed(2, 1)], Policy(10, 900)) == [1]


def test_a_version_whose_manifest_cannot_be_read_is_left_to_a_person() -> None:
    found = Found(1, 10, NOW - timedelta(days=999), unreadable="it is no manifest")
    assert gone([found], Policy(1, 0)) == []


@pytest.mark.parametrize(("keep", "days"), [(0, 1.0), (1, -1.0), (1, float("nan"))])
def test_a_policy_that_would_leave_nothing_is_refused(keep: int, days: float) -> None:
    with pytest.raises(ValueError, match="keep"):
        Policy(keep, days)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 400), st.booleans()), unique_by=lambda each: each[0]),
    st.lists(st.integers(1, 40), unique=True),
    st.sets(st.integers(1, 40)),
    st.integers(1, 10),
    st.floats(0, 200),
)
def test_whatever_the_policy_enough_of_each_kind_stays(
    made: list[tuple[int, float, bool]], promoted: list[int], held: set[int], keep: int, days: float
) -> None:
    found = [sealed(version, age) if whole else half(version, age) for version, age, whole in made]
    went = set(gone(found, Policy(keep, days), promoted=promoted, held=dict.fromkeys(held, "held")))
    whole = sorted((version for version, _, is_sealed in made if is_sealed), reverse=True)

    assert not went & held
    assert not went & set(whole[:keep])
    assert not went & set([version for version in promoted if version in whole][:keep])
    assert all(age > days for version, age, _ in made if version in went)


def test_a_rollback_goes_to_no_pruned_version() -> None:
    promotions = [
        Promotion.model_validate(
            {"version": v, "digest": "d", "kind": "build", "decision": v, "at": NOW, "run_id": "r"}
        )
        for v in (1, 2, 3)
    ]
    stable = Placement(fleet="blue", version=3, digest="d")
    assert target(State(model="m", promotions=promotions, stable=stable, pruned=[2])) == 1


def test_a_pruned_version_is_one_that_is_not_found_and_says_what_became_of_it() -> None:
    error = VersionPruned("m", 7, "on 2026-06-01 by ada", "old", "s3://training/x")
    assert isinstance(error, VersionNotFound)
    assert str(error).startswith("version 7 of m was pruned on 2026-06-01 by ada (old): its files are gone")
