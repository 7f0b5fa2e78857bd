"""Looks: the difference of two readings, and their JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_release.errors import LookUnusable
from model_release.gates.looks import Arm, Look, difference
from model_release.traffic.router import ArmCounters, SlowBound, Window

BEFORE = {
    "blue": ArmCounters(100, 1, {"2": 60, "4": 90, "+Inf": 100}, "envoy@1"),
    "green": ArmCounters(10, 0, {"2": 5, "4": 9, "+Inf": 10}, "envoy@1"),
}
AFTER = {
    "blue": ArmCounters(190, 2, {"2": 110, "4": 171, "+Inf": 190}, "envoy@1"),
    "green": ArmCounters(20, 3, {"2": 9, "4": 17, "+Inf": 20}, "envoy@1"),
}


def test_a_look_is_what_both_arms_did_in_between() -> None:
    look = difference(BEFORE, AFTER, stable="blue", canary="green", t=5.0, stage=10)
    assert look.canary == Arm(10, 3, {"2": 4, "4": 8, "+Inf": 10})
    assert look.stable == Arm(90, 1, {"2": 50, "4": 81, "+Inf": 90})
    assert look.note == ""


def test_roles_follow_the_names_not_the_colours() -> None:
    look = difference(BEFORE, AFTER, stable="green", canary="blue", t=5.0, stage=10)
    assert (look.canary.requests, look.stable.requests) == (90, 10)


def test_without_a_stable_its_arm_is_empty() -> None:
    look = difference(BEFORE, AFTER, stable=None, canary="green", t=5.0, stage=100)
    assert look.stable == Arm()
    assert look.canary.requests == 10


def test_counters_begin_at_zero_for_a_fleet_that_was_not_counted_yet() -> None:
    look = difference({}, AFTER, stable="blue", canary="green", t=5.0, stage=10)
    assert look.canary == Arm(20, 3, AFTER["green"].latency_buckets)


@pytest.mark.parametrize(
    "restarted",
    [
        ArmCounters(5, 0, {"2": 5, "4": 5, "+Inf": 5}, "envoy@1"),
        ArmCounters(500, 5, {"2": 5, "4": 500, "+Inf": 500}, "envoy@1"),
        ArmCounters(500, 5, {"2": 500, "4": 500, "+Inf": 500}, "envoy@2"),
    ],
    ids=["fewer requests", "fewer in a bucket", "another process"],
)
def test_counters_that_started_again_empty_the_look_of_both_arms(restarted: ArmCounters) -> None:
    look = difference(BEFORE, {**AFTER, "blue": restarted}, stable="blue", canary="green", t=5.0, stage=10)
    assert look.canary == look.stable == Arm()
    assert "started again" in look.note


def test_an_error_counted_just_before_its_request_does_not_exceed_the_requests() -> None:
    after = {**AFTER, "green": ArmCounters(10, 1, BEFORE["green"].latency_buckets, "envoy@1")}
    assert difference(BEFORE, after, "blue", "green", 5.0, 10).canary.errors == 0


def test_counters_survive_the_ledgers_json() -> None:
    stored = json.loads(json.dumps({fleet: asdict(arm) for fleet, arm in BEFORE.items()}))
    assert {fleet: ArmCounters(**arm) for fleet, arm in stored.items()} == BEFORE


counts = st.lists(st.integers(0, 50), min_size=3, max_size=3).map(sorted)
arms = counts.map(lambda n: Arm(n[2], n[0], {"2": n[0], "5.5": n[1], "+Inf": n[2]}))

tuples = counts.map(tuple)
windows = st.lists(st.builds(Window, st.integers(1, 16), st.integers(0), tuples, tuples), max_size=2).map(tuple)


@settings(max_examples=40)
@given(
    st.builds(
        Look,
        st.floats(0, 1e6),
        st.integers(1, 100),
        arms,
        arms,
        st.text(max_size=5),
        st.lists(arms).map(tuple),
        slow_ms=st.just((SlowBound(8.0, 6.0),)),
        failed_by_window=windows,
        slow_by_window=windows.map(lambda each: (each,)),
    )
)
def test_a_look_survives_its_json_line(look: Look) -> None:
    assert Look.from_dict(json.loads(json.dumps(look.to_dict()))) == look


def line(**changes: Any) -> dict[str, Any]:
    arm = {"requests": 10, "errors": 1, "latency_buckets": {"10": 9, "2": 4, "+Inf": 10}}
    return {"t": 1, "stage": 10, "canary": arm, "stable": arm, **changes}


def test_a_line_may_say_more_than_is_asked_for() -> None:
    arm = {**line()["canary"], "colour": "green"}
    look = Look.from_dict(line(canary=arm, weather="fine"))
    assert look.canary == look.stable


@pytest.mark.parametrize(
    "bad",
    [
        {"t": None},
        {"t": float("nan")},
        {"stage": "full"},
        {"canary": {"requests": 10}},
        {"canary": [1]},
        {"stable_by_replica": {"a": 1}},
        {"stable_by_replica": [{"requests": 1}]},
        {"strata": [{"canary": [1]}]},
        {"strata": [1]},
        {"paired": [1]},
        {"paired": {"right": {"plus": 1, "zero": 2}}},
        {"paired": {"right": {"plus": 1, "zero": 2, "minus": -1}}},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "proportions": {"a": {"good": 2, "total": 1}}}},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "users": 1, "failed_users": 2}},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "slow_users": [[1, -1]]}, "slow_ms": [[8, 8]]},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "slow_users": [[1]]}},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "slow_users": 1}, "slow_ms": [[8, 8]]},
        {"slow_ms": "soon"},
        {"slow_ms": [8]},
        {"failed_by_window": [[1, "soon", [1], [1]]]},
        {"failed_by_window": [[1, 7, [1]]]},
        {"failed_by_window": [[1, 7, [-1], [1]]]},
        {"failed_by_window": [1]},
        {"slow_by_window": [[]]},
        {"slow_ms": [[8, 8, 8]]},
        {"canary": {"requests": 1, "errors": 0, "latency_buckets": {}, "users": 1}},
        {"canary": {"requests": 10, "errors": 11, "latency_buckets": {}}},
        {"canary": {"requests": 10, "errors": -1, "latency_buckets": {}}},
        {"stable": {"requests": 10, "errors": 0, "latency_buckets": {"2": 5, "4": 4, "+Inf": 10}}},
        {"stable": {"requests": 10, "errors": 0, "latency_buckets": {"2": 5}}},
        {"stable": {"requests": 10, "errors": 0, "latency_buckets": {"fast": 5, "+Inf": 10}}},
    ],
)
def test_a_line_that_is_no_look_is_refused_with_a_sentence(bad: dict[str, Any]) -> None:
    with pytest.raises(LookUnusable, match="a look cannot be used"):
        Look.from_dict(line(**bad))
