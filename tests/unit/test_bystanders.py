"""Other models on the canary's fleet: an alarm when they begin to fail, few when nothing changes, none of strangers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_release.gates.bystanders import LEAST_REQUESTS, Bystander, quantile_ms, suffering
from model_release.gates.comparison import Count
from model_release.ledger.looks import Bystanders
from model_release.steps.bystanders import look_at_bystanders, note
from model_release.traffic.memory import MemoryRouter
from model_release.traffic.router import ArmCounters, Route

ALPHA = 0.01
OTHER = "embedding_model"


def looks_of(share: float, looks: int, n: int = 50, seed: int = 1) -> list[Count]:
    return [(n, int(bad)) for bad in np.random.default_rng(seed).binomial(n, share, looks)]


def first_alarm(before: Count, looks: list[Count], *others: Bystander) -> int | None:
    """Return the look at which the release is stopped, from 1, or None."""
    for place in range(1, len(looks) + 1):
        if suffering([Bystander(OTHER, before, looks[:place]), *others], ALPHA):
            return place
    return None


def test_a_model_that_begins_to_fail_stops_the_release_within_some_looks() -> None:
    assert first_alarm((3000, 3), looks_of(0.2, 20)) in range(2, 6)
    said = suffering([Bystander(OTHER, (3000, 3), looks_of(0.2, 20))], ALPHA)
    assert said is not None
    assert said.startswith(f"195 of 1000 requests (19.50%) of {OTHER} failed since the deploy, 3 of 3000 (0.10%)")


def test_one_look_alone_stops_nothing_however_bad() -> None:
    """It could be one crash of the model's own."""
    assert first_alarm((3000, 0), [(50, 0), (5000, 5000), *looks_of(0.0, 30)]) is None


def test_among_many_healthy_ones_the_one_that_fails_is_named() -> None:
    healthy = [Bystander(f"healthy_{number}", (3000, 3), looks_of(0.001, 20, seed=number)) for number in range(9)]
    said = suffering([*healthy, Bystander(OTHER, (3000, 3), looks_of(0.2, 20))], ALPHA)
    assert said is not None
    assert f"of {OTHER} failed" in said


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3])
def test_a_model_that_fails_as_before_stops_few_releases(share: float) -> None:
    """At most alpha of them; the bound assumes clumps, so in truth there are fewer."""
    rng = np.random.default_rng(5)
    alarms = 0
    for seed in range(60):
        before = (2000, int(rng.binomial(2000, share)))
        alarms += suffering([Bystander(OTHER, before, looks_of(share, 100, seed=seed))], ALPHA) is not None
    assert alarms == 0


def test_a_model_that_nobody_knows_is_not_judged() -> None:
    assert suffering([], ALPHA) is None
    assert suffering([Bystander(OTHER, (LEAST_REQUESTS - 1, 0), looks_of(1.0, 20))], ALPHA) is None
    assert suffering([Bystander(OTHER, (3000, 0), [])], ALPHA) is None


def test_a_quantile_is_a_bucket_bound_and_none_without_requests() -> None:
    buckets = {"5": 90, "10": 99, "25": 100, "+Inf": 100}
    assert (quantile_ms(buckets, 0.5), quantile_ms(buckets, 0.99)) == (5, 10)
    assert quantile_ms({**buckets, "+Inf": 1000}, 0.99) is None
    assert quantile_ms({}, 0.99) is None


# --- the step's part ------------------------------------------------------------------------------


class World:
    """A release of `mine` to green, beside models with routes of their own."""

    def __init__(self) -> None:
        self.router = MemoryRouter()
        self.kept: Bystanders | None = None
        canary = SimpleNamespace(alpha_rollback=ALPHA)
        self.step: Any = SimpleNamespace(
            model="mine",
            router=self.router,
            running=SimpleNamespace(fleet="green"),
            spec=SimpleNamespace(serving=SimpleNamespace(fleet_pair="default"), canary=canary),
            store=SimpleNamespace(folders=lambda _: ["mine", "never_routed", *self.router.routes]),
            looks=SimpleNamespace(read_bystanders=lambda: (self._read(), "etag"), write_bystanders=self._write),
        )

    def _read(self) -> Bystanders | None:
        return Bystanders.model_validate_json(self.kept.model_dump_json()) if self.kept else None

    def _write(self, bystanders: Bystanders, _: Any) -> bool:
        self.kept = bystanders
        return True

    def routes(self, model: str, stable: str = "green", version: int = 1, pair: str = "default") -> None:
        weights = {"blue": 0, "green": 0, stable: 100}
        versions: dict[str, int | None] = {"blue": None, "green": None, stable: version}
        self.router.set(Route(model, pair, 1, stable, None, weights, versions))

    def counts(self, model: str, requests: int, errors: int, generation: str = "g") -> None:
        self.router.count(model, "green", ArmCounters(requests, errors, {"5": requests, "+Inf": requests}, generation))


@pytest.fixture
def world() -> World:
    """One other model on green, that failed often long ago and not at all while the release was benchmarked."""
    made = World()
    made.routes(OTHER)
    made.counts(OTHER, 10_000, 5_000)
    note(made.step, deploys=False)
    made.counts(OTHER, 11_000, 5_000)
    note(made.step, deploys=True)
    return made


def looks_until(world: World, errors_a_look: int, looks: int = 8) -> str | None:
    requests, errors = 11_000, 5_000
    why = None
    for _ in range(looks):
        requests, errors = requests + 100, errors + errors_a_look
        world.counts(OTHER, requests, errors)
        why, told = look_at_bystanders(world.step)
        assert told[OTHER]["before"] == {"requests": 1000, "failed": 0, "p99_ms": 5.0}
    return why


def test_what_is_usual_is_what_was_seen_last_before_the_deploy(world: World) -> None:
    why = looks_until(world, errors_a_look=30)
    assert why is not None
    assert why.startswith(f"another model on green suffers: 240 of 800 requests (30.00%) of {OTHER} failed since")
    assert "0 of 1000 (0.00%) before it" in why


def test_a_healthy_neighbour_is_told_and_stops_nothing(world: World) -> None:
    assert looks_until(world, errors_a_look=0) is None


def test_without_a_note_before_the_router_s_whole_count_is_usual() -> None:
    world = World()
    world.routes(OTHER)
    world.counts(OTHER, 10_000, 5_000)
    note(world.step, deploys=True)
    world.counts(OTHER, 10_100, 5_080)
    _, told = look_at_bystanders(world.step)
    assert told[OTHER]["before"]["failed"] == 5_000
    assert told[OTHER]["since"] == {"requests": 100, "failed": 80, "p99_ms": 5.0}


def test_a_second_try_of_the_deploy_keeps_what_was_noted_first(world: World) -> None:
    kept = world.kept
    world.counts(OTHER, 20_000, 15_000)
    note(world.step, deploys=True)
    note(world.step, deploys=False)
    assert world.kept == kept


@pytest.mark.parametrize("changes", [{"version": 2}, {"stable": "blue"}, {"pair": "other"}])
def test_a_model_that_was_released_itself_or_moved_is_watched_no_more(world: World, changes: dict[str, Any]) -> None:
    world.routes(OTHER, **changes)
    world.counts(OTHER, 12_000, 6_000)
    assert look_at_bystanders(world.step) == (None, {})
    world.routes(OTHER)
    for errors in range(6_000, 6_800, 100):
        world.counts(OTHER, 12_000 + errors, errors)
        assert look_at_bystanders(world.step) == (None, {})


def test_a_router_that_started_again_makes_no_look(world: World) -> None:
    world.counts(OTHER, 500, 500, generation="another")
    assert look_at_bystanders(world.step) == (None, {})
    world.counts(OTHER, 600, 500, generation="another")
    assert look_at_bystanders(world.step)[1][OTHER]["since"]["requests"] == 100


def test_models_without_traffic_on_the_fleet_are_not_read_at_every_look() -> None:
    world = World()
    world.routes("idle")
    world.routes("elsewhere", stable="blue")
    world.routes("mine")
    note(world.step, deploys=True)
    assert world.kept is not None
    assert world.kept.models == {}
