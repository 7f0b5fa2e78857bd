"""What the demo says, from what it is given."""

from __future__ import annotations

import io
import urllib.error
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from model_release.identity import Kind
from model_release.ledger.state import Placement, Promotion, Running, State
from sandbox.airflow_rest import AirflowRest, TaskChange
from sandbox.demo import next_date
from sandbox.demo_summary import Observed, Stage, bake_seconds, told
from sandbox.errors import SandboxError
from sandbox.traffic_report import Record, summarise

PROMOTED_AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def record(after_s: float, arm: str, version: str, outcome: str = "ok") -> Record:
    return Record(PROMOTED_AT.timestamp() + after_s, "grpc", arm, version, outcome, 2.0, True)


def running(checkpoint: str) -> Running:
    return Running(
        run_id="r", clear_number=0, version=2, kind=Kind.BUILD, spec_digest="", checkpoint=checkpoint,
        fleet="green", first_release=False, stages=[10], started_at=PROMOTED_AT,
    )  # fmt: skip


@pytest.fixture
def state() -> State:
    promotion = Promotion(version=1, digest="d", kind=Kind.BUILD, decision=1, at=PROMOTED_AT, run_id="first")
    return State(model="m", stable=Placement(fleet="green", version=2, digest="d"), promotions=[promotion])


@pytest.fixture
def observed(tmp_path: Path) -> Observed:
    traffic = tmp_path / "m.csv"
    before, inside = record(-60, "", "", "error"), [record(n, "stable", "1") for n in range(9)]
    canary = record(9, "canary", "2", "error")
    traffic.write_text("".join(each.line() for each in [before, *inside, canary]))
    verdict = {
        "stage": 10,
        "verdict": "advance",
        "action": "advance",
        "reason": "enough",
        "gates": [{"sentence": "0 of 9"}],
    }
    return Observed(
        run="r", page="http://ui/r", state="success", version=2, failure="", verdicts=[verdict], traffic=traffic,
        stages=[Stage(10, 20.0, summarise([*inside, canary]))],
    )  # fmt: skip


def test_the_summary_has_split_errors_and_verdicts(observed: Observed, state: State) -> None:
    text = "\n".join(told(observed, 1, state, datetime(2026, 5, 4, 11, tzinfo=UTC)))

    assert "1 before, 2 now" in text
    assert "stage  10 %  clients saw 10.0 % canary of 10 requests in 20 s, errors 1" in text
    assert "verdict  10 %: advance, so: advance" in text
    assert "0 of 9" in text
    assert "10 requests since 12:00:00 UTC, 1 errors, 1 by version 2" in text, (
        "before the first promotion nothing counts"
    )


def test_bakes_are_summed(observed: Observed) -> None:
    assert bake_seconds(replace(observed, stages=observed.stages * 3)) == 60.0


def test_every_demo_trains_on_another_day(state: State) -> None:
    used = state.model_copy(update={"release": running("s3://training/m/2026-02-28-contrast-bug/model.safetensors")})

    assert next_date(used) == "2026-03-01"
    assert datetime.fromisoformat(next_date(state)).replace(tzinfo=UTC) < datetime.now(UTC)


def test_each_change_of_a_task_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(name: str, state: str | None, end: str | None = None) -> dict[str, Any]:
        return {"task_id": name, "state": state, "start_date": "2026-05-04T12:00:00Z", "end_date": end}

    ended = "2026-05-04T12:00:03Z"
    polls = [
        [task("plan", "running"), task("watch", None)],
        [task("plan", "success", ended), task("watch", "deferred")],
        [task("plan", "success", ended), task("watch", "running")],
        [task("plan", "success", ended), task("watch", "success", ended)],
    ]
    rest = AirflowRest("http://nowhere")
    states = iter(["running", "running", "running", "success"])
    monkeypatch.setattr(rest, "run", lambda dag, run: {"state": next(states)})
    monkeypatch.setattr(rest, "_tasks", lambda dag, run: polls.pop(0))
    monkeypatch.setattr("sandbox.airflow_rest._POLL_S", 0)
    changes: list[TaskChange] = []

    assert rest.follow("dag", "run", changes.append) == "success"
    assert [(change.task, change.state, change.seconds) for change in changes] == [
        ("plan", "running", None),
        ("plan", "success", 3.0),
        ("watch", "deferred", None),
        ("watch", "success", 3.0),
    ]


def refusal(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://nowhere", code, "", Message(), io.BytesIO(b"as told"))


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> tuple[AirflowRest, list[Any]]:
    """An Airflow that gives its answers one after another, and what it is asked."""
    rest, given, asked = AirflowRest("http://nowhere"), list(answers), list[Any]()

    def call_once(method: str, path: str, body: Any) -> Any:
        asked.append((method, path, body))
        answer = given.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(rest, "_call_once", call_once)
    monkeypatch.setattr("sandbox.airflow_rest._POLL_S", 0)
    return rest, asked


@pytest.mark.parametrize(
    "answers",
    [
        [{}],
        [refusal(503), {}],
        [TimeoutError("timed out"), {}],
        [TimeoutError("timed out"), refusal(409)],
        [refusal(500), refusal(502), refusal(409)],
    ],
)
def test_a_run_is_triggered_once_however_often_airflow_has_to_be_asked(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any]
) -> None:
    rest, asked = scripted(monkeypatch, *answers)

    run = rest.trigger("dag", {"a": 1})

    assert len(asked) == len(answers)
    assert {path for _, path, _ in asked} == {"/dags/dag/dagRuns"}
    assert [body["dag_run_id"] for _, _, body in asked] == [run] * len(answers)


@pytest.mark.parametrize("answers", [[refusal(409)], [refusal(400)], [refusal(503), refusal(400)]])
def test_what_airflow_refuses_is_not_taken_for_a_run_that_was_triggered(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any]
) -> None:
    rest, asked = scripted(monkeypatch, *answers)

    with pytest.raises(SandboxError, match=r"40[09] as told"):
        rest.trigger("dag", {})
    assert len(asked) == len(answers)


def test_a_dag_is_unpaused_though_an_answer_gets_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, asked = scripted(monkeypatch, refusal(503), TimeoutError("timed out"), {})

    rest.unpause("dag")

    assert [(method, body) for method, _, body in asked] == [("PATCH", {"is_paused": False})] * 3


def test_what_may_not_be_done_twice_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, asked = scripted(monkeypatch, refusal(503))

    with pytest.raises(SandboxError, match="503 as told"):
        rest.call("POST", "/backfills", {})
    assert len(asked) == 1
