"""What every router must do; run against the fake in tests/unit and against a real Envoy in tests/sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from model_release.errors import RouteNotConfirmed, RouteTakenOver
from model_release.traffic.router import (
    ARM_COUNTERS,
    CROSS_ARM_RETRY,
    MIRROR,
    STICKY,
    USERS,
    Route,
    Router,
    Slow,
    SlowBound,
)

OLD, NEW = 20260101020304, 20260102020304
#: A real router on a busy machine takes seconds at times.
CONFIRMED_WITHIN_S = 60
BOUND = SlowBound(60.0, 54.0)


def route(model: str, epoch: int = 1, canary_percent: int = 10, **changes: Any) -> Route:
    fields: dict[str, Any] = {
        "model": model,
        "pair": "default",
        "epoch": epoch,
        "stable": "blue",
        "canary": "green",
        "weights": {"blue": 100 - canary_percent, "green": canary_percent},
        "versions": {"blue": OLD, "green": NEW},
    }
    return Route(**{**fields, **changes})


def unreleased(model: str, epoch: int = 1) -> Route:
    nothing: dict[str, Any] = {"blue": None, "green": None}
    return route(model, epoch, stable=None, canary=None, weights={"blue": 0, "green": 0}, versions=nothing)


class RouterContract:
    """Inherit, and give a fixture `router`."""

    def test_a_model_without_a_route_reads_as_none(self, router: Router) -> None:
        assert router.read("digits_classifier") is None

    def test_the_route_that_was_set_is_read_back_and_confirmed(self, router: Router) -> None:
        asked = route("digits_classifier", epoch=7)
        router.set(asked)
        router.confirm(asked, timeout_s=CONFIRMED_WITHIN_S)
        assert router.read("digits_classifier") == asked

    def test_an_unreleased_model_has_a_route_too(self, router: Router) -> None:
        router.set(unreleased("digits_classifier"))
        router.confirm(unreleased("digits_classifier"), timeout_s=CONFIRMED_WITHIN_S)
        assert router.read("digits_classifier") == unreleased("digits_classifier")

    def test_an_older_epoch_is_refused_and_changes_nothing(self, router: Router) -> None:
        router.set(route("digits_classifier", epoch=7, canary_percent=0))
        with pytest.raises(RouteTakenOver, match="epoch 7, newer than 6"):
            router.set(route("digits_classifier", epoch=6, canary_percent=100))
        assert router.read("digits_classifier") == route("digits_classifier", epoch=7, canary_percent=0)

    def test_the_same_epoch_may_write_again(self, router: Router) -> None:
        router.set(route("digits_classifier", epoch=7, canary_percent=10))
        router.set(route("digits_classifier", epoch=7, canary_percent=50))
        router.confirm(route("digits_classifier", epoch=7, canary_percent=50), timeout_s=CONFIRMED_WITHIN_S)

    def test_epochs_belong_to_one_model(self, router: Router) -> None:
        router.set(route("digits_classifier", epoch=7))
        router.set(route("sentiment", epoch=1))
        router.confirm(route("digits_classifier", epoch=7), timeout_s=CONFIRMED_WITHIN_S)
        router.confirm(route("sentiment", epoch=1), timeout_s=CONFIRMED_WITHIN_S)

    def test_another_route_than_the_set_one_is_not_confirmed(self, router: Router) -> None:
        router.set(route("digits_classifier", canary_percent=10))
        with pytest.raises(RouteNotConfirmed, match="digits_classifier"):
            router.confirm(route("digits_classifier", canary_percent=50), timeout_s=0.2)

    def test_both_fleets_have_counters_from_the_start(self, router: Router) -> None:
        router.set(route("digits_classifier"))
        counters = router.counters("digits_classifier", "default")
        assert set(counters) == {"blue", "green"}
        assert all(arm.requests == arm.errors == 0 for arm in counters.values())
        assert all(arm.mirrored.requests == arm.mirrored.errors == 0 for arm in counters.values())

    def test_it_says_what_it_can_do_in_words_that_a_refusal_names(self, router: Router) -> None:
        assert router.capabilities <= {ARM_COUNTERS, STICKY, CROSS_ARM_RETRY, MIRROR, USERS}

    def test_it_tells_of_affected_users_where_it_says_so(self, router: Router) -> None:
        router.set(route("digits_classifier", sticky_header="x-user", slow_ms=BOUND))
        found = router.affected_users("digits_classifier", NEW, 10, {}, Slow((BOUND,)))
        assert (found is not None) == (USERS in router.capabilities)
        assert found is None or sum(map(sum, [*found.failed[:2], *found.slow[0][:2]])) == 0

    def test_a_route_with_all_that_a_router_may_do_is_read_back_and_confirmed(self, router: Router) -> None:
        asked = route(
            "digits_classifier",
            canary_percent=0,
            sticky_header="x-user",
            try_timeout_s=1.5,
            mirrored={"green": 25},
            slow_ms=BOUND,
            often_ms=SlowBound(30.0, 25.0),
        )
        router.set(asked)
        router.confirm(asked, timeout_s=CONFIRMED_WITHIN_S)
        assert router.read("digits_classifier") == asked

    def test_counters_by_router_add_up_and_replicas_are_told_by_fleet(self, router: Router) -> None:
        router.set(route("digits_classifier"))
        for arms in router.counters_by_router("digits_classifier", "default").values():
            assert set(arms) == {"blue", "green"}
        assert set(router.counters_by_replica("digits_classifier", "default")) == {"blue", "green"}
