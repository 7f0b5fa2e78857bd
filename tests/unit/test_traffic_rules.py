"""Who gets which share: the shadow, the control, a canary without a proved replica, and the way back."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from model_release.environment import Environment
from model_release.errors import RouterLacks, RouterUnavailable, RouteTakenOver
from model_release.gates.judge import Verdict
from model_release.gates.looks import Arm, Look, difference
from model_release.ledger.state import Placement, State, WeightRecord, Weights
from model_release.report.timeline import sentence
from model_release.spec import Canary, Shadow
from model_release.steps import ease_back as easing
from model_release.steps import shadow, withdraw
from model_release.steps.ease_back import ease_back
from model_release.steps.plan import _require_user_log
from model_release.steps.refusals import refuse_router
from model_release.steps.route import route_of, try_timeout_s
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import ArmCounters, Route
from tests.contracts.router import NEW, OLD, route
from tests.unit.config_cases import line_spec

ENVIRONMENT = Environment.model_validate(
    {
        "s3": {"bucket": "models"},
        "pairs": {
            "default": {
                fleet: {
                    "replicas": [
                        {"name": f"{fleet}-{i}", "http": "h:1", "grpc": "h:2", "metrics": "h:3"} for i in range(count)
                    ]
                }
                for fleet, count in (("blue", 4), ("green", 4), ("bench", 1))
            }
        },
        "router": {"directory": "/nowhere", "admin": ["h:4"], "http": "h:5"},
    }
)
STABLE, CANARY = (
    Placement(fleet=fleet, version=version, digest="d") for fleet, version in (("blue", OLD), ("green", NEW))
)


def spec(**canary: Any) -> Any:
    made = line_spec()
    return made.model_copy(update={"canary": made.canary.model_copy(update=canary)})


def sight(router: Any = None, **canary: Any) -> Any:
    return SimpleNamespace(spec=spec(**canary), router=router or MemoryRouter())


def state(stable: Placement | None = STABLE, canary: Placement | None = CANARY, green: int = 0) -> State:
    weights = WeightRecord(intent=Weights(blue=100 - green, green=green))
    return State(model="digits_classifier", epoch=4, stable=stable, canary=canary, weights=weights)


class Bare(MemoryRouter):
    capabilities = frozenset()


# --- what a route says ---------------------------------------------------------------------------


def test_the_shadow_is_mirrored_at_weight_0_and_the_control_at_100_and_nothing_between() -> None:
    def mirrored(percent: int, shadow_percent: int = 0) -> Any:
        return route_of(
            state(), sight(control_percent=5), canary_percent=percent, shadow_percent=shadow_percent
        ).mirrored

    assert mirrored(0, 20) == {"green": 20}
    assert mirrored(0) == mirrored(10) == mirrored(50, 20) == {}
    assert mirrored(100) == {"blue": 5}
    assert route_of(state(), sight(control_percent=0), canary_percent=100).mirrored == {}


def test_without_two_arms_a_route_says_no_more_than_its_weights() -> None:
    asked = {"sticky_header": "x-user", "try_timeout_s": 2.0}
    for alone in (state(canary=None), state(stable=None)):
        made = route_of(alone, sight(**asked), canary_percent=100 if alone.canary else 0)
        assert (made.sticky_header, made.try_timeout_s, made.mirrored) == (None, None, {})
    both = route_of(state(), sight(**asked), canary_percent=10)
    assert (both.sticky_header, both.try_timeout_s) == ("x-user", 2.0)


def test_a_router_that_can_do_nothing_more_is_asked_for_nothing_more() -> None:
    made = route_of(state(), sight(Bare()), canary_percent=100)
    assert (made.try_timeout_s, made.mirrored) == (None, {})


@pytest.mark.parametrize(("p99_ms", "seconds"), [(5, 1.0), (200, 4.0), (5000, 30.0)])
def test_a_try_may_take_twenty_times_the_slowest_good_p99_within_bounds(p99_ms: float, seconds: float) -> None:
    made = spec(gates=[])
    objective = made.benchmark.objective.model_copy(update={"p99_ms": p99_ms})
    made = made.model_copy(update={"benchmark": made.benchmark.model_copy(update={"objective": objective})})
    assert try_timeout_s(made) == seconds


def test_a_spec_that_needs_what_the_router_lacks_is_refused_by_name() -> None:
    needs = spec(sticky_header="x-user", shadow=Shadow(), try_timeout_s=1.0)
    with pytest.raises(RouterLacks) as refused:
        refuse_router(Bare(), "plain", "digits_classifier", needs)
    for named in ("plain", "canary.sticky_header needs sticky arms", "canary.shadow needs mirroring",
                  "canary.try_timeout_s needs cross-arm retry", "canary.gates needs per-arm counters"):  # fmt: skip
        assert named in str(refused.value)
    refuse_router(MemoryRouter(), "memory", "digits_classifier", needs)


@pytest.mark.parametrize(
    ("header", "stages", "alone", "refused"),
    [
        ("x-user", [0, 10, 100], False, True),
        ("x-user", [0, 100], False, False),
        ("x-user", [10, 100], True, False),
        (None, [10, 100], False, False),
    ],
)
def test_a_log_of_affected_users_that_cannot_be_read_is_told_before_a_canary_that_needs_it(
    header: str | None, stages: list[int], alone: bool, refused: bool
) -> None:
    class Unreadable(MemoryRouter):
        def affected_users(self, *_: Any) -> None:
            raise RouterUnavailable("/logs/affected-users.log", "there is no log of affected users")

    running: Any = SimpleNamespace(stages=stages, judged_alone=alone, version=7)
    with pytest.raises(RouterUnavailable, match="affected-users") if refused else nullcontext():
        _require_user_log(Unreadable(), spec(sticky_header=header), running)


# --- looks at mirrored requests ------------------------------------------------------------------


def test_a_look_at_the_shadow_holds_the_canarys_mirrored_requests_beside_stables_real_ones() -> None:
    before = {"blue": ArmCounters(100, 1), "green": ArmCounters(5, 0, mirrored_requests=10, mirrored_errors=1)}
    after = {
        "blue": ArmCounters(300, 2),
        "green": ArmCounters(5, 0, mirrored_requests=30, mirrored_errors=4, mirrored_latency_buckets={"+Inf": 30}),
    }
    seen = difference(before, after, "blue", "green", t=5, stage=0, shadow=True)
    assert (seen.canary, seen.stable) == (Arm(20, 3, {"+Inf": 30}), Arm(200, 1))


def test_a_look_at_100_percent_holds_the_old_fleets_mirrored_requests_as_the_control() -> None:
    before = {"blue": ArmCounters(900, 9), "green": ArmCounters(0, 0)}
    after = {"blue": ArmCounters(900, 9, mirrored_requests=50, mirrored_errors=2), "green": ArmCounters(500, 1)}
    seen = difference(before, after, "blue", "green", t=5, stage=100)
    assert (seen.canary, seen.stable, seen.control) == (Arm(500, 1), Arm(), Arm(50, 2))
    assert Look.from_dict(seen.to_dict()) == seen


def test_no_look_has_more_requests_below_a_bound_than_it_has_requests() -> None:
    before = {"green": ArmCounters(10, 0, {"2.0": 8, "+Inf": 11})}
    after = {"green": ArmCounters(18, 0, {"2.0": 16, "+Inf": 18})}
    seen = difference(before, after, None, "green", t=5, stage=10)
    assert seen.canary == Arm(8, 0, {"2.0": 8, "+Inf": 8})


SHADOW = Canary(shadow=Shadow(percent=20, seconds=30))


def verdict(what: str, reason: str = "as it is") -> Verdict:
    return Verdict(t=1, stage=0, verdict=what, reason=reason)


@pytest.mark.parametrize(
    ("what", "age_s", "ends"),
    [
        ("rollback", 1, "rollback"),
        ("rollback", 40, "rollback"),
        ("inconclusive", 29, "inconclusive"),
        ("inconclusive", 30, "advance"),
        ("advance", 10, "inconclusive"),
    ],
)
def test_the_shadow_ends_when_it_is_bad_or_when_its_time_is_over(what: str, age_s: float, ends: str) -> None:
    assert shadow.ended(verdict(what), SHADOW, age_s).verdict == ends


def test_the_shadow_is_the_first_stage_where_it_is_asked_for_and_the_router_can_mirror() -> None:
    assert shadow.stages_of(SHADOW, MemoryRouter()) == [0, 10, 50, 100]
    assert shadow.stages_of(Canary(), MemoryRouter()) == [10, 50, 100]
    assert shadow.stages_of(SHADOW, Bare()) == [10, 50, 100]


# --- a canary without a proved replica -----------------------------------------------------------


class Applied(list[Route]):
    """Stands in for a step; what apply_route was asked for is kept."""

    def __init__(self, now: State, **canary: Any) -> None:
        super().__init__()
        self.events: list[str] = []
        seen = sight(**canary)
        self.spec, self.router = seen.spec, seen.router
        self.claim = SimpleNamespace(check=lambda: now)

    def event(self, what: str, **_: Any) -> None:
        self.events.append(what)


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdraw, "apply_route", lambda step, made: step.append(made))


@pytest.mark.parametrize(
    ("weight", "proved", "unproved", "becomes"),
    [
        (50, 0, ["green-0 is gone", "green-1 is gone"], 0),
        (50, 1, ["green-1 is gone"], None),
        (50, 2, [], None),
        (0, 1, ["green-1 is gone"], None),
        (0, 0, ["green-0 is gone", "green-1 is gone"], None),
        (0, 2, [], 50),
    ],
)
@pytest.mark.usefixtures("applied")
def test_the_weight_goes_with_the_last_proved_replica_and_comes_back_with_all(
    weight: int, proved: int, unproved: list[str], becomes: int | None
) -> None:
    step = Applied(state(green=weight))
    changed = withdraw.weigh_by_replicas(step, 50, proved=proved, unproved=unproved)  # type: ignore[arg-type]
    assert [made.weights["green"] for made in step] == ([] if becomes is None else [becomes])
    assert step.events == ([changed] if changed else [])


@pytest.mark.usefixtures("applied")
def test_a_first_release_and_the_shadow_keep_what_they_have() -> None:
    first = Applied(state(stable=None, green=100))
    assert withdraw.weigh_by_replicas(first, 100, proved=0, unproved=["gone"]) is None  # type: ignore[arg-type]
    in_shadow = Applied(state())
    assert withdraw.weigh_by_replicas(in_shadow, 0, proved=2, unproved=[]) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("weight", "age_s", "gone"), [(0, 900, True), (0, 899, False), (50, 900, False)])
def test_a_canary_that_is_not_back_within_its_bake_is_rolled_back_whatever_the_config_says(
    weight: int, age_s: float, gone: bool
) -> None:
    step = Applied(state(green=weight), on_inconclusive="advance", max_bake_s=900)
    held = {"verdict": "inconclusive", "action": None, "reason": "held"}
    decided = withdraw.given_up(step, 50, held, ["green-0 is gone"], age_s)  # type: ignore[arg-type]
    assert (decided["action"] == "rollback") is gone


def test_a_persons_timeline_tells_of_the_shadow_the_lost_weight_and_the_way_back() -> None:
    told = [
        {"what": "planned", "fleet": "green", "stages": [0, 10, 100]},
        {"what": "shifted", "stage": 0, "mirrored": {"green": 20}},
        {"what": "judged", "stage": 0, "verdict": "advance", "action": "advance"},
        {"what": "withdrawn", "stage": 10, "reason": "green-0 is gone"},
        {"what": "returned", "stage": 10, "reason": "each is proved again"},
        {"what": "rolled_back", "rolled_back": 7, "by": "guard", "reason": "bad", "weight_0_after_s": 0.8},
    ]
    assert [sentence(event).rstrip(". ") for event in told] == [
        "planned: fleet green, stages shadow, 10 %, 100 %",
        "shadow: 20 % of the requests mirrored to the canary",
        "shadow judged advance, so: advance",
        "the canary has no weight: green-0 is gone",
        "the canary has its 10 % again: each is proved again",
        "version 7 taken back by guard, no request reached it 0.8 s later: bad",
    ]


# --- the way back --------------------------------------------------------------------------------


Seen = tuple[int, int]
"""How many of stable's four replicas are ready, and how many of the canary's."""


def way_back(weight: int, *seen: Seen, sleep: Any = lambda _: None) -> list[int]:
    """Return the shares of stable on the way back from a canary with some weight, as its replicas are seen."""
    router, looks = MemoryRouter(), [dict(zip(("blue", "green"), each, strict=True)) for each in seen]
    router.set(route("digits_classifier", 3, weight))
    back = route("digits_classifier", 4, 0, canary=None, versions={"blue": OLD, "green": None})

    def slept(seconds: float) -> None:
        sleep(router)
        assert seconds == easing.STEP_S
        if len(looks) > 1:
            looks.pop(0)

    return ease_back(router, ENVIRONMENT, back, ready=lambda _, fleet: looks[0][fleet], sleep=slept)


def test_all_goes_back_at_once_to_a_fleet_that_is_as_large_as_it_was() -> None:
    assert way_back(100, (4, 4)) == []


def test_all_goes_back_at_once_from_a_canary_that_is_gone() -> None:
    assert way_back(100, (1, 0)) == []


def test_a_smaller_fleet_is_given_what_it_can_carry_and_then_more_step_by_step() -> None:
    assert way_back(100, (2, 4)) == [50, 60, 70, 80, 90, 100]
    assert way_back(10, (2, 4)) == [90, 100]


def test_the_steps_end_when_the_replicas_are_back_or_the_canary_dies() -> None:
    assert way_back(100, (1, 4), (1, 4), (4, 4)) == [25, 35]
    assert way_back(100, (1, 4), (1, 0)) == [25]
    assert way_back(100, (1, 4), (3, 4)) == [25, 75, 85, 95, 100]


def test_the_way_back_has_an_end_though_no_replica_is_seen_ready() -> None:
    steps = way_back(100, (0, 4))
    assert steps == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert len(steps) * easing.STEP_S == easing.LONGEST_S


def test_each_step_carries_the_new_epoch_so_that_an_older_writer_is_refused() -> None:
    refused = []

    def older_writer(router: MemoryRouter) -> None:
        with pytest.raises(RouteTakenOver):
            router.set(route("digits_classifier", 3, 100))
        refused.append(True)

    assert len(way_back(100, (2, 4), sleep=older_writer)) == len(refused) == 6


def test_nothing_is_eased_where_there_is_no_canary() -> None:
    back = route("digits_classifier", 4, 0, canary=None, versions={"blue": OLD, "green": None})
    assert ease_back(MemoryRouter(), ENVIRONMENT, back, ready=lambda *_: 0) == []
