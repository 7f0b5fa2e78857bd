"""The change policy: when a build may start or advance, and how many a day; restores always may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from model_release.environment import S3, Environment
from model_release.errors import ChangeFrozen, TooManyReleases
from model_release.identity import Kind, Release
from model_release.ledger.state import Begun, StateFile
from model_release.repository.store import ObjectStore
from model_release.spec.policy import ChangePolicy, frozen_at
from model_release.steps import policy
from model_release.steps.context import begin
from tests.unit import toys
from tests.unit.fake_s3 import FakeS3

WEEKEND = {"every": "fri 16:00", "until": "mon 08:00", "timezone": "Europe/Berlin", "reason": "nobody is here"}
FAIR = {"start": "2026-03-01T00:00:00+00:00", "end": "2026-03-05T00:00:00+00:00", "reason": "the fair"}
FOREVER = {"start": "2020-01-01T00:00:00Z", "end": "2090-01-01T00:00:00Z", "reason": "for good"}
VERSION = 20260102000000


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


def environment(s3: S3, tmp_path: Path, **policy: Any) -> Environment:
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    return Environment.model_validate(
        {
            "s3": s3,
            "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
            "router": {"directory": tmp_path, "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
            "change_policy": policy,
        }
    )


def build(model: str = "toy", run: str = "run-1", kind: Kind = Kind.BUILD) -> Release:
    return Release(model, VERSION, kind, run, reason="it was better")


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-01-09 14:59", None),  # Friday 15:59 in Berlin
        ("2026-01-09 15:00", "2026-01-12 07:00"),
        ("2026-01-11 23:00", "2026-01-12 07:00"),
        ("2026-01-12 06:59", "2026-01-12 07:00"),
        ("2026-01-12 07:00", None),
        ("2026-03-29 12:00", "2026-03-30 06:00"),  # the night before, the clocks went forward
        ("2026-03-04 12:00", "2026-03-05 00:00"),
        ("2026-03-05 00:00", None),
    ],
)
def test_a_window_is_what_the_clocks_there_say(moment: str, until: str | None) -> None:
    asked = ChangePolicy.model_validate({"freeze": [WEEKEND, FAIR]})

    window = frozen_at([asked], at(moment))

    assert (window.end.astimezone(UTC) if window else None) == (at(until) if until else None)


def test_what_would_reach_into_a_window_meets_it_and_the_window_that_ends_last_counts() -> None:
    asked = [ChangePolicy.model_validate({"freeze": [FAIR]}), ChangePolicy.model_validate({"freeze": [FOREVER]})]

    assert frozen_at(asked[:1], at("2026-02-28 23:00")) is None
    assert frozen_at(asked[:1], at("2026-02-28 23:00"), timedelta(hours=2)) is not None
    window = frozen_at(asked, at("2026-03-02 00:00"))
    assert window is not None
    assert window.reason == "for good"


@pytest.mark.parametrize(
    "wrong",
    [
        {"freeze": [{**FAIR, "end": "2026-02-01T00:00:00Z"}]},
        {"freeze": [{**FAIR, "start": "2026-03-01T00:00:00"}]},
        {"freeze": [{**WEEKEND, "every": "friday 16:00"}]},
        {"freeze": [{**WEEKEND, "timezone": "Berlin"}]},
        {"freeze": [{**WEEKEND, "reason": ""}]},
        {"max_releases_a_day": 0},
    ],
)
def test_a_policy_that_says_nothing_clear_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChangePolicy.model_validate(wrong)


@pytest.mark.parametrize("where", ["model", "all"])
def test_in_a_freeze_no_build_starts_or_advances_and_a_restore_does(s3: S3, tmp_path: Path, where: str) -> None:
    spec = toys.spec(change_policy={"freeze": [FOREVER]} if where == "model" else {})
    place = environment(s3, tmp_path, **({"freeze": [FOREVER]} if where == "all" else {}))
    step: Any = SimpleNamespace(release=build(), store=ObjectStore(s3), spec=spec, environment=place, model="toy")

    with pytest.raises(ChangeFrozen, match="no build of toy starts before 2090-01-01 00:00 UTC: for good") as refused:
        policy.refuse_start(build(), place, spec)
    with pytest.raises(ChangeFrozen, match="no build of toy advances before"):
        policy.refuse_advance(step)
    assert "model-release rollback" in str(refused.value)
    policy.refuse_start(build(kind=Kind.RESTORE), place, spec)
    policy.refuse_advance(SimpleNamespace(**{**vars(step), "release": build(kind=Kind.RESTORE)}))  # type: ignore[arg-type]


def began(store: ObjectStore, model: str, *hours_ago: float) -> None:
    builds = [
        Begun(version=VERSION, run_id=f"run-{hours}", at=store.now() - timedelta(hours=hours)) for hours in hours_ago
    ]
    StateFile(store, model).change(lambda state: state.model_copy(update={"builds": builds}))


def test_a_limit_counts_the_builds_of_a_day_but_no_try_of_the_same_run(s3: S3, tmp_path: Path) -> None:
    store, spec, place = ObjectStore(s3), toys.spec(change_policy={"max_releases_a_day": 2}), environment(s3, tmp_path)
    began(store, "toy", 30, 20, 3)

    with pytest.raises(TooManyReleases, match=r"2 builds of toy began within 24 hours.* in (239|240) minutes"):
        policy.refuse_start(build(), place, spec)
    policy.refuse_start(build(run="run-3"), place, spec)
    policy.refuse_start(build(kind=Kind.RESTORE), place, spec)

    state = StateFile(store, "toy").read()
    assert len(policy.builds_with(state, build(), store.now())) == 4
    assert policy.builds_with(state, build(run="run-3"), store.now()) == state.builds
    assert policy.builds_with(state, build(kind=Kind.RESTORE), store.now()) == state.builds


def test_the_environments_limit_counts_all_models(s3: S3, tmp_path: Path) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, max_releases_a_day=2)
    began(store, "one", 2)
    policy.refuse_start(build(), place, toys.spec())
    began(store, "two", 1)

    with pytest.raises(TooManyReleases, match="2 builds of all models"):
        policy.refuse_start(build(), place, toys.spec())


def test_of_builds_that_began_at_one_moment_the_first_go_on(s3: S3, tmp_path: Path) -> None:
    """Five models with one cron: each may start as long as none of the others is in the ledger."""
    store, place = ObjectStore(s3), environment(s3, tmp_path, max_releases_a_day=2)
    began(store, "other", 30)
    at = store.now()
    asked = {model: Release(model, VERSION, Kind.BUILD, "scheduled") for model in ("e", "c", "a", "d", "b")}
    for release in asked.values():
        policy.refuse_start(release, place, toys.spec())
    went_on = set()
    with ExitStack() as stack:
        steps = [stack.enter_context(begin(release, place, "plan", begins=True)) for release in asked.values()]
        for step in steps:
            builds = policy.builds_with(step.claim.check(), step.release, at)
            step.update(builds=builds)
        for step in steps:
            with suppress(TooManyReleases):
                policy.yield_to_earlier(step)
                went_on.add(step.model)
            with suppress(TooManyReleases):
                policy.yield_to_earlier(step)

    assert went_on == {"a", "b"}
    counted = {model: len(StateFile(store, model).read().builds) for model in asked}
    assert counted == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 0}


def test_another_models_broken_ledger_stops_no_restore(s3: S3, tmp_path: Path) -> None:
    store, place = ObjectStore(s3), environment(s3, tmp_path, max_releases_a_day=1)
    store.put("ledger/other/state.json", b"broken")
    with begin(Release("toy", VERSION, Kind.RESTORE, "back"), place, "plan", begins=True) as step:
        policy.yield_to_earlier(step)
