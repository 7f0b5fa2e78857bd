"""Routes as values, the fake router, and what Envoy is told, without any server."""

from __future__ import annotations

import itertools
import json

import pytest

from model_release.environment import FleetPair
from model_release.traffic import envoy_resources as resources
from model_release.traffic.envoy_clusters import Json, with_clusters
from model_release.traffic.envoy_counts import arm_of
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import Route, SlowBound
from tests.contracts.router import RouterContract, route, unreleased


class TestMemoryRouter(RouterContract):
    @pytest.fixture
    def router(self) -> MemoryRouter:
        return MemoryRouter()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": {"blue": 50, "green": 40}}, "sum to 100"),
        ({"weights": {"blue": 110, "green": -10}}, "sum to 100"),
        ({"weights": {"blue": 100}}, "must name blue and green"),
        ({"canary": "blue"}, "two different ones"),
        ({"stable": "red"}, "two different ones"),
        ({"canary": None}, "green has weight 10 without a role"),
        ({"versions": {"blue": 1, "green": None}}, "green has weight 10 without a role and a version"),
        ({"mirrored": {"green": 5}}, "green cannot be mirrored 5 %: that takes a role and a version, and no weight"),
        ({"mirrored": {"bench": 5}}, "bench cannot be mirrored"),
    ],
)
def test_a_route_that_no_router_can_hold_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        route("digits_classifier", **changes)


def test_a_route_survives_json_whose_numbers_are_floats() -> None:
    written = json.loads(json.dumps(route("digits_classifier", epoch=3).to_dict()), parse_int=float)
    assert Route.from_dict(written) == route("digits_classifier", epoch=3)


def test_setting_one_model_leaves_the_other_models_part_of_the_table_untouched() -> None:
    first = resources.with_route(resources.empty_table(), route("digits_classifier"))
    both = resources.with_route(first, route("digits", epoch=4))
    changed = resources.with_route(both, unreleased("digits", epoch=5))

    def part(table: Json, model: str) -> list[Json]:
        routes = table["virtual_hosts"][0]["routes"]
        return [made for made in routes if made["name"].split("/")[0] == model]

    assert part(both, "digits_classifier") == part(first, "digits_classifier") == part(changed, "digits_classifier")
    assert part(changed, "digits") != part(both, "digits")
    assert resources.records(changed) == {
        "digits_classifier": route("digits_classifier"),
        "digits": unreleased("digits", epoch=5),
    }


def test_whatever_is_set_last_what_names_no_model_stays_the_last_route() -> None:
    table = resources.with_route(resources.with_route(resources.empty_table(), route("one")), route("two"))
    names = [made["name"] for made in table["virtual_hosts"][0]["routes"]]
    assert names.count("not-routed") == 1
    assert names[-1] == "not-routed"


def test_an_arm_can_be_forced_only_while_it_has_a_version() -> None:
    alone = route("digits_classifier", canary_percent=0, canary=None, versions={"blue": 1, "green": None})
    names = {made["name"] for made in resources.model_routes(alone)}
    assert "digits_classifier/http/forced-stable" in names
    assert "digits_classifier/http/forced-canary" not in names
    warm = {made["name"] for made in resources.model_routes(route("digits_classifier", canary_percent=0))}
    assert "digits_classifier/grpc-metadata/forced-canary" in warm


def test_a_fleet_without_weight_is_not_in_the_weighted_route() -> None:
    made = {entry["name"]: entry for entry in resources.model_routes(route("digits_classifier", canary_percent=100))}
    clusters = made["digits_classifier/http"]["route"]["weighted_clusters"]["clusters"]
    assert [cluster["name"] for cluster in clusters] == ["digits_classifier/green/http/or-stable"]


def test_latency_bounds_are_in_steps_of_about_ten_percent_and_at_least_two_ms() -> None:
    bounds = resources.latency_bounds_ms()
    steps = list(itertools.pairwise(bounds))
    assert all(upper - lower >= 2 for lower, upper in steps)
    assert all(1.05 < upper / lower < 1.16 for lower, upper in steps if lower >= 20)
    assert bounds[0] == 2
    assert bounds[-1] >= 10_000


def pair(address: str = "10.0.0.1") -> FleetPair:
    replica = {"name": "r", "http": f"{address}:8000", "grpc": f"{address}:8001", "metrics": "10.0.0.1:8002"}
    return FleetPair.model_validate({fleet: {"replicas": [replica]} for fleet in ("blue", "green", "bench")})


def names(clusters: list[Json]) -> set[str]:
    return {cluster["name"] for cluster in clusters}


ALONE = {"canary": None, "weights": {"blue": 100, "green": 0}, "versions": {"blue": 1, "green": None}}
PLAIN = {f"m/{fleet}/{protocol}" for fleet in ("blue", "green") for protocol in ("http", "grpc")}


def test_host_names_are_resolved_and_addresses_are_not() -> None:
    for address, kind in (("triton.example", "STRICT_DNS"), ("10.0.0.1", "STATIC")):
        made = with_clusters([], route("m", **ALONE), pair(address))
        assert {cluster["type"] for cluster in made} == {kind}


def test_a_model_without_a_canary_has_a_cluster_for_each_fleet_and_protocol_and_no_more() -> None:
    assert names(with_clusters([], route("m", **ALONE), pair())) == PLAIN


def test_clusters_that_envoy_may_still_go_by_stay_until_the_route_after_the_next() -> None:
    canary = route("m", canary_percent=100, mirrored={"blue": 5})
    with_canary = with_clusters([], canary, pair())
    extra = {f"m/green/{p}/{kind}" for p in ("http", "grpc") for kind in ("tried", "or-stable")}
    extra |= {f"m/blue/{p}/{kind}" for p in ("http", "grpc") for kind in ("instead", "mirror")}
    assert names(with_canary) == PLAIN | extra
    promoted = with_clusters(with_canary, route("m", **ALONE), pair(), held=canary)
    assert promoted == with_canary
    assert names(with_clusters(promoted, route("m", **ALONE), pair(), held=route("m", **ALONE))) == PLAIN


def test_going_back_to_weight_0_changes_no_cluster_so_that_it_waits_for_no_envoy() -> None:
    at_ten = route("m", canary_percent=10, try_timeout_s=1.0)
    before = with_clusters([], at_ten, pair())
    assert with_clusters(before, route("m", canary_percent=0, try_timeout_s=1.0), pair(), held=at_ten) == before


def test_a_route_of_before_there_were_sticky_users_and_mirrors_is_read() -> None:
    old = {name: value for name, value in route("m").to_dict().items() if name not in ADDED}
    assert Route.from_dict(old) == route("m")


def test_a_route_of_before_arms_had_bounds_of_their_own_is_read() -> None:
    assert Route.from_dict({**route("m").to_dict(), "slow_ms": 54.0}) == route("m", slow_ms=SlowBound(54.0, 54.0))


ADDED = ("sticky_header", "try_timeout_s", "mirrored", "slow_ms", "often_ms")


def test_a_stream_is_neither_tried_again_on_stable_nor_mirrored() -> None:
    made = {
        entry["name"]: entry for entry in resources.model_routes(route("m", canary_percent=0, mirrored={"green": 5}))
    }
    stream, unary = made["m/grpc-stream-metadata"]["route"], made["m/grpc-metadata"]["route"]
    assert "request_mirror_policies" in unary
    assert "request_mirror_policies" not in stream
    assert "retry_priority" not in stream["retry_policy"]


def test_what_went_to_stable_without_a_try_is_counted_against_the_canary() -> None:
    metrics = {
        "m/green/http/or-stable": {"upstream_rq_completed": 10, "upstream_rq_retry": 2, "upstream_rq_retry_success": 2},
        "m/blue/http/instead": {"upstream_rq_total": 5},
        "m/blue/http": {"upstream_rq_completed": 90},
    }
    canary, stable = (arm_of(metrics, "m", fleet, "one") for fleet in ("green", "blue"))
    assert (canary.requests, canary.errors) == (10, 5)
    assert (stable.requests, stable.errors) == (90, 0)


def test_a_try_that_the_canary_did_not_answer_in_time_is_slower_than_any() -> None:
    timed = {"canary_upstream_rq_time_bucket:20": 90, "canary_upstream_rq_time_bucket:+Inf": 95}
    metrics = {
        "m/green/http/or-stable": {
            **timed,
            "upstream_rq_completed": 100,
            "upstream_rq_retry": 5,
            "upstream_rq_retry_success": 5,
        },
        "m/green/http/tried": {
            "upstream_rq_max_duration_reached": 5,
            "upstream_cx_destroy_local_with_active_rq": 5,
        },
        "m/blue/http/instead": {"upstream_rq_total": 5},
    }
    canary = arm_of(metrics, "m", "green", "one")
    assert (canary.requests, canary.errors) == (100, 5)
    assert canary.latency_buckets == {"20": 90, "+Inf": 100}
