"""The clients: what they send is what Triton reads, and what they saw is told apart rightly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from sandbox.traffic import Answer, Replay, Sample, make_samples
from sandbox.traffic_report import Recorder, read_records


def test_both_protocols_carry_the_same_sample() -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 4)
    first, second = make_samples("m", {"image": images, "label": np.array([3, 4])})

    request = service_pb2.ModelInferRequest.FromString(second.grpc_body)
    assert (request.model_name, request.inputs[0].name, list(request.inputs[0].shape)) == ("m", "image", [1, 4])
    assert np.frombuffer(request.raw_input_contents[0], np.float32).tolist() == [4, 5, 6, 7]
    assert json.loads(second.http_body)["inputs"][0] == {
        "name": "image",
        "datatype": "FP32",
        "shape": [1, 4],
        "data": [4, 5, 6, 7],
    }
    assert (first.label, second.label) == (3, 4)


class Scripted:
    """A client that gives the next of its answers, and the last one for ever."""

    protocol = "grpc"

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)

    async def ask(self, _: Sample) -> Answer:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


OK = Answer("ok", "stable", "1", 7)
UNROUTED = Answer("unrouted", "", "", None, "HTTP 404")


class Clock:
    """Time that passes while somebody sleeps, each time longer than asked, and never while the machine is busy."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turn = asyncio.sleep

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + 0.002
        await self._turn(0)


Seen = Callable[..., list[tuple[str, bool | None]]]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What a client has seen in that time, by the clock of the test."""
    clock, path = Clock(), tmp_path / "m.csv"
    monkeypatch.setattr("sandbox.traffic.time", clock)
    monkeypatch.setattr("sandbox.traffic.asyncio.sleep", clock.sleep)

    def replayed(client: Scripted, *, rate_per_s: float = 200, run_s: float = 0.1) -> list[tuple[str, bool | None]]:
        with Recorder(path) as recorder:
            replay = Replay([client, client], 0.0, rate_per_s, recorder)
            asyncio.run(replay.run([Sample(b"", b"", 7), Sample(b"", b"", 8)], clock.now + run_s))
        return [(record.outcome, record.right) for record in read_records(path)]

    return replayed


def test_an_unknown_model_is_unreleased_before_its_first_answer_and_an_error_after(seen: Seen) -> None:
    assert seen(Scripted(UNROUTED, OK, UNROUTED))[:3] == [
        ("unreleased", None),
        ("ok", False),
        ("error", None),
    ]


def test_an_answer_is_right_when_it_is_the_label(seen: Seen) -> None:
    assert seen(Scripted(OK))[:2] == [("ok", True), ("ok", False)]


def test_an_answer_that_no_client_understands_is_an_error_and_the_replay_goes_on(seen: Seen) -> None:
    assert seen(Scripted(IndexError("no output"), OK))[:2] == [("error", None), ("ok", False)]


def test_the_rate_is_kept(seen: Seen) -> None:
    assert len(seen(Scripted(OK), rate_per_s=100, run_s=0.5)) == pytest.approx(50, abs=3)
