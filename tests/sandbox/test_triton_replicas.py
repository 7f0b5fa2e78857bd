"""What real Tritons do with requests, when they start, and when they die, hang or are locked."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_release.environment import Replica
from model_release.errors import LoadFailed, ProofFailed, ReplicaUnavailable
from model_release.triton import config as configs
from model_release.triton.fleet import load_everywhere, prove, request_counts, unload_everywhere
from model_release.triton.poison import poison_of
from model_release.triton.replica import ReplicaClient
from tests.sandbox.triton_parts import (
    MODEL,
    TOLERANCE,
    VERSION,
    Server,
    Tritons,
    await_true,
    emptied,
    load,
    lookup_bytes,
    onnx_bytes,
    pair,
    proofs,
    recorded,
    spec,
    tritons,
    unclaimed,
)

__all__ = ["emptied", "pair", "tritons"]
pytestmark = pytest.mark.usefixtures("emptied")


def test_requests_are_counted_on_each_replica(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    for server in pair:
        tritons.place(server)
    load(tritons, *pair)
    fleet = tritons.fleet(*pair)
    before = request_counts(fleet, MODEL, tritons.environment)
    with ReplicaClient(pair[1].replica, tritons.environment) as client:
        for _ in range(3):
            client.infer(MODEL, {"x": np.ones((1, 4), np.float32)})

    def counted() -> dict[str, int]:
        after = request_counts(fleet, MODEL, tritons.environment)
        return {name: after[name] - before[name] for name in after}

    await_true(lambda: counted()["fleet-1"] >= 3, 30)  # Triton counts a request after it has answered it
    assert counted() == {"fleet-0": 0, "fleet-1": 3}
    assert request_counts(fleet, "unknown", tritons.environment) == {"fleet-0": 0, "fleet-1": 0}


def test_concurrent_requests_are_batched_and_each_gets_its_own_rows(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    batching = {"max_queue_delay_microseconds": 50_000}
    tritons.place(pair[0], spec(serving={"max_batch_size": 8, "dynamic_batching": batching}))
    load(tritons, pair[0])

    with ReplicaClient(pair[0].replica, tritons.environment) as client, ThreadPoolExecutor(8) as pool:
        inputs = [np.full((1, 4), i, np.float32) for i in range(64)]
        answers = list(pool.map(lambda x: client.infer(MODEL, {"x": x})["y"], inputs))
        sizes = client.statistics(MODEL)[0].batch_sizes

    assert all(np.array_equal(answer, 2 * x) for answer, x in zip(answers, inputs, strict=True))
    assert any(size > 1 for size in sizes)


def test_batches_that_fail_whole_fail_in_words_and_leave_the_server_standing(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    batching = {"max_batch_size": 8, "warmup": False, "dynamic_batching": {"max_queue_delay_microseconds": 20_000}}
    tritons.place(pair[0], spec(serving=batching), model_bytes=lookup_bytes())
    load(tritons, pair[0])

    with ReplicaClient(pair[0].replica, tritons.environment) as client, ThreadPoolExecutor(16) as pool:

        def ask(number: int) -> str:
            """Every other request looks past the table."""
            try:
                client.infer(MODEL, {"x": np.full((1, 4), 99 if number % 2 else 1, np.float32)})
            except ProofFailed as error:
                return str(error)
            return ""

        problems = [problem for problem in pool.map(ask, range(800)) if problem]
        assert len(problems) >= 400
        assert {problem for problem in problems if "onnx runtime error" not in problem} == set()
        asked = f"the replica {pair[0].name} is not proved to serve {MODEL}: it answers an inference with"
        assert {problem for problem in problems if not problem.startswith(asked)} == set()
        good = client.infer(MODEL, {"x": np.ones((1, 4), np.float32)})["y"]
    assert good.tolist() == [[7.0] * 4]
    assert pair[0].process.poll() is None


def test_a_folder_of_onnx_files_is_served(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    tritons.put(f"{pair[0].prefix}/{MODEL}/{VERSION}/model.onnx/model.onnx", onnx_bytes())
    tritons.put(f"{pair[0].prefix}/{MODEL}/warmup/x", recorded()["input__x"][0].tobytes())
    config = configs.build_config(spec(), VERSION)
    tritons.write_config(pair[0], config)
    load(tritons, pair[0])

    assert proofs(tritons, pair[:1], config)


def test_a_newborn_replica_serves_what_the_prefix_says_and_skips_what_is_disabled(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    config = tritons.place(pair[0])
    newborn = tritons.start("newborn", pair[0].prefix)
    assert proofs(tritons, (newborn,), config)
    newborn.kill()

    tritons.write_config(pair[0], configs.disabled(config))
    later = tritons.start("later", pair[0].prefix)
    with ReplicaClient(later.replica, tritons.environment) as client:
        assert not client.ready(MODEL)
        assert client.live()
    later.kill()


def test_a_dead_replica_is_named_at_once(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0])
    load(tritons, pair[0])
    dead = Replica(name="dead-0", http="127.0.0.1:1", grpc="127.0.0.1:1", metrics="127.0.0.1:1")
    fleet = tritons.fleet(pair[0])
    fleet = fleet.model_copy(update={"replicas": [*fleet.replicas, dead]})
    began = time.monotonic()

    with pytest.raises(ReplicaUnavailable, match="dead-0"):
        load_everywhere(fleet, MODEL, VERSION, tritons.environment, unclaimed)
    with pytest.raises(ReplicaUnavailable, match="dead-0"):
        prove(fleet, MODEL, VERSION, config, recorded(), TOLERANCE, tritons.environment)
    with pytest.raises(ReplicaUnavailable, match="dead-0"):
        unload_everywhere(fleet, MODEL, tritons.environment, unclaimed)

    assert time.monotonic() - began < 3 * tritons.environment.call_timeout_s


def test_a_hung_replica_fails_at_the_deadline(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    hasty = tritons.environment.model_copy(update={"call_timeout_s": 1.0, "load_timeout_s": 1.0})
    fleet = tritons.fleet(pair[1])
    config = tritons.place(pair[1])
    pair[1].process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(LoadFailed, match=r"fleet-1.*no answer within 1 s"):
            load_everywhere(fleet, MODEL, VERSION, hasty, unclaimed)
        with pytest.raises(ReplicaUnavailable, match=r"fleet-1.*no answer within 1 s"):
            prove(fleet, MODEL, VERSION, config, recorded(), TOLERANCE, hasty)
        with pytest.raises(ReplicaUnavailable, match="fleet-1"):
            request_counts(fleet, MODEL, hasty)
        assert time.monotonic() - began < 15
    finally:
        pair[1].process.send_signal(signal.SIGCONT)
    with ReplicaClient(pair[1].replica, tritons.environment) as client:
        await_true(client.live, 10)


# Loads meet where a second begins before the first has ended; which they do is read from the lines.
MEETING = """
import os
import time


class TritonPythonModel:
    def initialize(self, args):
        self.write("began")
        until = time.monotonic() + {patience_s}
        while self.loads_begun() < 2 and time.monotonic() < until:
            time.sleep(0.02)
        self.write("ended")

    def write(self, line):
        lines = os.open({lines!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(lines, (line + chr(10)).encode())
        os.close(lines)

    def loads_begun(self):
        with open({lines!r}) as lines:
            return lines.read().count("began")
"""


def place_meeting(tritons: Tritons, server: Server, name: str, lines: Path, patience_s: float) -> None:
    """Put a model there whose load waits so long for a second load, and tells of both in that file."""
    source = MEETING.format(lines=str(lines), patience_s=patience_s)
    tritons.put(f"{server.prefix}/{name}/{VERSION}/model.py", source.encode())
    config = configs.build_config(spec(name=name, serving={"max_batch_size": 8, "warmup": False}), VERSION)
    config.backend, config.default_model_filename = "python", "model.py"
    tritons.write_config(server, config)


def test_a_load_that_hangs_fails_at_its_deadline_and_nothing_else_does(tritons: Tritons, tmp_path: Path) -> None:
    hanging = tritons.start("hanging")
    hasty = tritons.environment.model_copy(update={"load_timeout_s": 1.5})
    config = tritons.place(hanging)
    load(tritons, hanging)
    place_meeting(tritons, hanging, "endless", tmp_path / "lines", patience_s=3600)
    began = time.monotonic()
    with pytest.raises(LoadFailed, match=r"hanging refused to load endless .*no answer within 1.5 s.*restart"):
        load_everywhere(tritons.fleet(hanging), "endless", VERSION, hasty, unclaimed)
    assert time.monotonic() - began < 15, "well before the load's own 20 s"
    said = f"endless version {VERSION} stays LOADING"
    await_true(lambda: poison_of(hanging.replica, "endless", tritons.environment) == said, 60)
    assert poison_of(hanging.replica, MODEL, tritons.environment) is None
    assert proofs(tritons, (hanging,), config)
    hanging.kill()


def test_replicas_load_together_unless_that_would_leave_another_model_unserved(
    tritons: Tritons, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    both = tritons.fleet(*pair).model_copy(update={"load_batch": 2})

    def loads(name: str, patience_s: float) -> list[str]:
        for server in pair:
            place_meeting(tritons, server, name, tmp_path / name, patience_s)
        load_everywhere(both, name, VERSION, tritons.environment, unclaimed)
        unload_everywhere(both, name, tritons.environment, unclaimed)
        for server in pair:
            tritons.remove(server, name)
        return (tmp_path / name).read_text().split()

    assert loads("first", patience_s=30) == ["began", "began", "ended", "ended"]
    for server in pair:
        tritons.place(server)
    load(tritons, *pair)
    assert loads("second", patience_s=1) == ["began", "ended", "began", "ended"]
