"""What a look reads beside the router's totals: routers one by one, stable's replicas, and which samples are next."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_release.errors import RouterUnavailable
from model_release.gates.looks import Arm, Look, difference_by_router
from model_release.ledger.looks import StageLooks
from model_release.spec import DisagreementGate
from model_release.steps.answers import _same, asked_so_far
from model_release.steps.reading import _by_user, replicas_of, summed
from model_release.traffic.router import AffectedUsers, ArmCounters, ByArm, Slow, SlowBound, Window

HOW: dict[str, Any] = {"stable": "blue", "canary": "green", "t": 5.0, "stage": 10}


def router(blue: int, green: int, name: str = "a@1") -> dict[str, ArmCounters]:
    return {"blue": ArmCounters(blue, 0, {}, name), "green": ArmCounters(green, 0, {}, name)}


def test_each_router_is_a_stratum_and_their_sum_is_the_look() -> None:
    before = {"a": router(100, 10), "b": router(200, 20, "b@1")}
    after = {"a": router(190, 20), "b": router(380, 40, "b@1")}
    look = difference_by_router(before, after, **HOW)
    assert (look.canary.requests, look.stable.requests) == (30, 270)
    assert [(part.canary.requests, part.stable.requests) for part in look.strata] == [(10, 90), (20, 180)]


@pytest.mark.parametrize("other", [{}, {"b": router(5, 1, "b@2")}], ids=["gone", "began anew"])
def test_a_router_that_is_gone_or_began_anew_is_left_out_for_both_arms(other: dict[str, Any]) -> None:
    before = {"a": router(100, 10), "b": router(200, 20, "b@1")}
    look = difference_by_router(before, {"a": router(190, 20), **other}, **HOW)
    assert (look.canary.requests, look.stable.requests, look.note) == (10, 90, "")


def test_a_new_router_counts_from_its_second_reading_and_none_that_goes_on_empties_the_look() -> None:
    look = difference_by_router({"a": router(1, 1)}, {"a": router(2, 2), "b": router(500, 500, "b@1")}, **HOW)
    assert look.canary == Arm(1)
    assert difference_by_router({"a": router(1, 1)}, {"b": router(2, 2)}, **HOW).note


def test_totals_are_the_sum_over_routers() -> None:
    assert summed({"a": router(1, 2), "b": router(3, 4)})["green"].requests == 6


def sight(counted: dict[str, tuple[int, int]]) -> Any:
    told = SimpleNamespace(counters_by_replica=lambda *_: {"blue": counted})
    spec = SimpleNamespace(serving=SimpleNamespace(fleet_pair="default"))
    return SimpleNamespace(router=told, spec=spec, model="digits")


def test_stables_replicas_are_told_by_what_each_did_since() -> None:
    arms, now = replicas_of(sight({"one": (50, 2), "two": (40, 0)}), "blue", {"one": (10, 1), "two": (10, 0)})
    assert arms == (Arm(40, 1), Arm(30, 0))
    assert now == {"one": (50, 2), "two": (40, 0)}


@pytest.mark.parametrize(
    "before",
    [{}, {"one": (10, 1)}, {"one": (99, 1), "two": (10, 0)}],
    ids=["a first reading", "a new replica", "one began anew"],
)
def test_replicas_that_do_not_compare_are_not_told_apart(before: dict[str, tuple[int, int]]) -> None:
    arms, now = replicas_of(sight({"one": (50, 2), "two": (40, 0)}), "blue", before)
    assert arms == ()
    assert set(now) == {"one", "two"}


def test_samples_go_on_where_the_stages_before_stopped() -> None:
    carried = {"gates": {"right": {"comparisons": [{"key": "answers", "paired": {"plus": 1, "zero": 30, "minus": 1}}]}}}
    line = {"t": 1, "stage": 50, "paired": {"right": {"plus": 0, "zero": 16, "minus": 0}, "same": {"zero": 8}}}
    looks = StageLooks(
        stage=50, started_at=datetime.now(UTC), baseline={}, counters={}, carried=carried, looks=[line, {"t": 2}]
    )
    assert asked_so_far(looks, "right") == 48
    assert asked_so_far(looks, "same") == 8
    assert asked_so_far(looks, "other") == 0


def test_answers_are_the_same_by_class_or_value_by_value_and_nan_is_like_nothing() -> None:
    own, other = np.array([[1.0, 2], [3, 1], [np.nan, 1]]), np.array([[0.0, 9], [1, 3], [np.nan, 1]])
    by_class = DisagreementGate(name="same", kind="disagreement")
    assert _same(own, other, by_class).tolist() == [True, False, False]
    close = DisagreementGate(name="same", kind="disagreement", compare="close", atol=1.5, rtol=0)
    near = np.array([[0.0, 3], [1, 3]])
    assert _same(own[:2], near, close).tolist() == [True, False]


# --- whose requests failed ------------------------------------------------------------------------

BY_WINDOW = (Window(1, 7, (2,), (1,)),)
TOLD = AffectedUsers(ByArm((3, 1), (1, 0), BY_WINDOW), (ByArm((4, 2), (5, 0), BY_WINDOW),), {"log": [1, 9]}, told=5)
SILENT = AffectedUsers(ByArm((0, 0), (0, 0)), (), {"log": [1, 9]}, told=0)


def sticky(
    found: AffectedUsers | RouterUnavailable = TOLD,
    *,
    header: str | None = "x-user",
    judged_alone: bool = False,
    slow_ms: float | None = None,
) -> Any:
    asked: list[tuple[Any, ...]] = []
    slow = [SlowBound(slow_ms, slow_ms / 2)] if slow_ms else []

    def failed(*about: Any) -> AffectedUsers:
        asked.append(about)
        if isinstance(found, RouterUnavailable):
            raise found
        return found

    return SimpleNamespace(
        model="digits",
        spec=SimpleNamespace(canary=SimpleNamespace(sticky_header=header, warmup_s=30, try_timeout_s=3.0)),
        running=SimpleNamespace(judged_alone=judged_alone, slow_ms=slow, user_bounds_ms=tuple(slow)),
        claim=SimpleNamespace(check=lambda: SimpleNamespace(canary=SimpleNamespace(version=7))),
        router=SimpleNamespace(affected_users=failed),
        asked=asked,
    )


def stage_of(errors: int = 0, *, looks: int = 0, heard_t: float | None = None, stage: int = 10) -> StageLooks:
    """A stage with a look a second so far, each with so many errors."""
    told = [{"t": float(t), "canary": {"errors": errors}} for t in range(looks)]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    users = {"log": [1, 1]}
    return StageLooks(
        stage=stage, started_at=now, baseline={}, counters={}, looks=told, users=users, users_heard_t=heard_t
    )


def test_the_router_is_asked_whose_requests_failed_at_this_version_and_weight_since_the_look_before() -> None:
    step = sticky()
    look, kept, why = _by_user(step, stage_of(stage=50), Look(1.0, 50, Arm(10, 4), Arm(20, 2)))
    warm_s = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC).timestamp()
    assert step.asked == [("digits", 7, 50, {"log": [1, 1]}, Slow((), warm_s, 3.0))]
    assert (look.canary, look.stable) == (Arm(10, 4, failed_users=(3, 1)), Arm(20, 2, failed_users=(1, 0)))
    assert look.failed_by_window == BY_WINDOW
    assert (kept, why) == ({"users": {"log": [1, 9]}, "users_heard_t": 1.0}, [])


@pytest.mark.parametrize(
    ("step", "stage"),
    [(sticky(), 0), (sticky(), 100), (sticky(header=None), 10), (sticky(judged_alone=True), 10)],
    ids=["shadow", "all of the traffic", "not sticky", "judged alone"],
)
def test_users_are_no_unit_where_the_weights_do_not_share_them(step: Any, stage: int) -> None:
    look = Look(1.0, stage, Arm(10, 4), Arm(20, 2))
    assert _by_user(step, stage_of(stage=stage), look) == (look, {}, [])
    assert step.asked == []


def test_slow_users_are_told_where_the_release_knows_what_is_slow() -> None:
    look, _, _ = _by_user(sticky(slow_ms=54.0), stage_of(), Look(1.0, 10, Arm(10), Arm(20)))
    assert (look.slow_ms, look.canary.slow_users, look.stable.slow_users) == (((54.0, 27.0),), ((4, 2),), ((5, 0),))
    assert look.slow_by_window == (BY_WINDOW,)
    look, _, _ = _by_user(sticky(), stage_of(), Look(1.0, 10, Arm(10), Arm(20)))
    assert (look.slow_ms, look.canary.slow_users, look.stable.slow_users) == ((), None, None)
    assert look.slow_by_window == ()


@pytest.mark.parametrize(("slow_ms", "waits"), [(None, True), (8.0, True), (6.0, False), (5.0, False)])
def test_a_log_that_tells_of_no_slow_answers_is_not_waited_for_either(slow_ms: float | None, waits: bool) -> None:
    """Twelve requests of the looks so far took longer than 6 ms, three of them longer than 8."""
    stage = stage_of(looks=3)
    for look in stage.looks:
        look["canary"]["latency_buckets"] = {"4": 0, "6": 1, "8": 4, "+Inf": 5}
    found, _, why = _by_user(sticky(SILENT, slow_ms=slow_ms), stage, Look(60.0, 10, Arm(10), Arm(20)))
    assert (found.canary.failed_users is not None) == waits
    assert bool(why) != waits


def test_a_look_that_says_nothing_leaves_its_failed_users_to_the_next() -> None:
    look = Look(1.0, 10, note="the router's counters started again")
    assert _by_user(sticky(), stage_of(), look) == (look, {}, [])


DOWN = RouterUnavailable("/affected-users.log", "it cannot be read")


@pytest.mark.parametrize("found", [SILENT, DOWN], ids=["silent", "unreadable"])
@pytest.mark.parametrize(
    ("stage", "t", "waits"),
    [
        (stage_of(5, looks=30), 20.5, True),  # five errors are twenty seconds old: Envoy may still hold some
        (stage_of(5, looks=30), 22.0, False),
        (stage_of(0, looks=30), 60.0, True),
        (stage_of(5, looks=30, heard_t=28.5), 60.0, True),
        (stage_of(5, looks=30, heard_t=27.5), 60.0, False),
    ],
)
def test_a_log_that_tells_nothing_is_waited_for_until_it_should_have_told_of_failures(
    found: Any, stage: StageLooks, t: float, waits: bool
) -> None:
    look, kept, why = _by_user(sticky(found), stage, Look(t, 10, Arm(10, 5), Arm(20, 0)))
    assert (look.canary.failed_users is not None) == waits
    assert look.canary.failed_users is None or sum(look.canary.failed_users) == 0
    assert kept.get("users_heard_t") == (stage.users_heard_t if waits else None)
    if not waits:
        assert why[0].startswith("users: the canary is judged by request: the router counted ")
    elif isinstance(found, RouterUnavailable):
        assert "source_down" in why[0]
        assert kept["users"] == {"log": [1, 1]}
    else:
        assert why == []
