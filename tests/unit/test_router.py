"""Routes as values, the fake router, and what Envoy is told, without any server."""

from __future__ import annotations

import itertools
import json

import pytest

from model_release.environment import FleetPair
from model_release.traffic import envoy_resources as resources
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import Route
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

    def part(table: resources.Json, model: str) -> list[resources.Json]:
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
    assert [cluster["name"] for cluster in clusters] == ["digits_classifier/green/http"]


def test_latency_bounds_are_in_steps_of_about_ten_percent_and_at_least_two_ms() -> None:
    bounds = resources.latency_bounds_ms()
    steps = list(itertools.pairwise(bounds))
    assert all(upper - lower >= 2 for lower, upper in steps)
    assert all(1.05 < upper / lower < 1.16 for lower, upper in steps if lower >= 20)
    assert bounds[0] == 2
    assert bounds[-1] >= 10_000


def test_host_names_are_resolved_and_addresses_are_not() -> None:
    replica = {"name": "r", "http": "triton.example:8000", "grpc": "10.0.0.1:8001", "metrics": "10.0.0.1:8002"}
    pair = FleetPair.model_validate({fleet: {"replicas": [replica]} for fleet in ("blue", "green", "bench")})
    kinds = {cluster["name"]: cluster["type"] for cluster in resources.with_clusters([], "m", pair)}
    assert kinds["m/blue/http"] == "STRICT_DNS"
    assert kinds["m/blue/grpc"] == "STATIC"
