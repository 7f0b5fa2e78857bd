"""What a stage's watch takes over from the stages before: once, the same for every watcher, from old ledgers too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from model_release.gates.judge import Judge
from model_release.gates.looks import Arm, Look
from model_release.gates.stream import judged
from model_release.identity import Kind
from model_release.ledger.looks import StageLooks
from model_release.ledger.state import Running
from model_release.spec import Canary, ErrorRateGate
from model_release.steps.watch import _carried, _replayed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = Canary(gates=[ErrorRateGate(name="errors", kind="error_rate")], warmup_s=0)
STAGES = [10, 50, 100]
RUNNING = Running(
    run_id="run-1",
    clear_number=0,
    version=3,
    kind=Kind.BUILD,
    spec_digest="d",
    checkpoint="file:///c",
    fleet="green",
    first_release=False,
    stages=STAGES,
    started_at=NOW,
)


def look(place: int, number: int) -> Look:
    return Look(100.0 * place + 5 * (number + 1), STAGES[place], Arm(100, 1 + place), Arm(800, 4))


def ledger(count: int, **changes: Any) -> dict[int, StageLooks]:
    """The objects of the first `count` stages, as a ledger keeps them, six looks each."""
    return {
        stage: StageLooks.model_validate_json(
            StageLooks(
                stage=stage,
                started_at=NOW + timedelta(seconds=100 * place),
                baseline={},
                counters={},
                looks=[look(place, number).to_dict() for number in range(6)],
                **changes,
            ).model_dump_json()
        )
        for place, stage in enumerate(STAGES[:count])
    }


def step(kept: dict[int, StageLooks]) -> Any:
    looks = SimpleNamespace(read=lambda stage: (kept.get(stage), "etag"), read_before=list)
    s3 = SimpleNamespace(bucket="models", prefix="")
    release = SimpleNamespace(version=3, holder="run-1")
    return SimpleNamespace(looks=looks, environment=SimpleNamespace(s3=s3), model="digits", release=release)


@pytest.mark.parametrize("stage", STAGES)
def test_a_watch_and_a_stream_of_the_same_looks_agree(stage: int) -> None:
    kept = ledger(3)
    own = kept[stage].model_copy(update={"carried": _carried(step(kept), RUNNING, CANARY, kept[stage])})
    place = STAGES.index(stage)
    online = list(judged(CANARY, [look(at, number) for at in range(place + 1) for number in range(6)]))

    last = Look.from_dict(own.looks[-1])
    judge = _replayed(RUNNING, CANARY, own.model_copy(update={"looks": own.looks[:-1]}), [])
    assert judge.take(last).gates == online[-1].gates


def test_what_was_worked_out_once_is_taken_as_it_stands() -> None:
    kept = ledger(3)
    carried = _carried(step(kept), RUNNING, CANARY, kept[50])
    written = kept[50].model_copy(update={"carried": carried})
    assert _carried(step({}), RUNNING, CANARY, StageLooks.model_validate_json(written.model_dump_json())) == carried
    assert _carried(step({**kept, 50: written}), RUNNING, CANARY, kept[100]) == _carried(
        step(kept), RUNNING, CANARY, kept[100]
    )


def test_an_object_of_the_code_before_is_read_and_gone_on_from() -> None:
    old = {key: value for key, value in ledger(2)[50].model_dump(mode="json").items() if key != "carried"}
    looks = StageLooks.model_validate(old)
    assert looks.carried is None
    carried = _carried(step(ledger(2)), RUNNING, CANARY, looks)
    assert carried is not None
    assert set(carried["gates"]) == {"errors"}


def test_the_first_stage_takes_nothing_over_and_a_lost_one_is_no_error() -> None:
    assert _carried(step({}), RUNNING, CANARY, ledger(1)[10]) is None
    assert _carried(step({}), RUNNING, CANARY, ledger(2)[50]) is None


def test_taking_over_twice_spends_nothing_twice() -> None:
    judge = Judge(CANARY, 10, first_release=False, bounds_ms=None)
    judge.replay(look(0, number) for number in range(6))
    assert judge.carried() == judge.carried()
    following = [
        Judge(CANARY, 50, first_release=False, bounds_ms=None, carried=judge.carried()).take(look(1, 0))
        for _ in range(2)
    ]
    assert following[0] == following[1]
