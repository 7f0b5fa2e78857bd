"""Served parity on a real Triton: right answers pass, and what is wrong in batches alone is found and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_release.errors import ServedParityFailed
from model_release.spec import Tolerance
from model_release.triton import config as configs
from model_release.triton.parity import BUDGET_S, Served, prove_served
from model_release.triton.replica import ReplicaClient
from tests.sandbox.triton_parts import (
    MODEL,
    TOLERANCE,
    VERSION,
    Server,
    Tritons,
    emptied,
    load,
    onnx_bytes,
    pair,
    recorded,
    spec,
    tritons,
)

__all__ = ["emptied", "pair", "tritons"]
pytestmark = pytest.mark.usefixtures("emptied")

PROGRAM = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [2 * pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        if len(requests) > 1:
            arrays = spoil(arrays)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ascontiguousarray(array))]) for array in arrays]

"""
SWAPS = """
def spoil(arrays):
    whole = np.concatenate(arrays)[::-1]
    return np.split(whole, np.cumsum([len(array) for array in arrays])[:-1])
"""
DRIFTS = """
def spoil(arrays):
    return [array + np.float32(0.01) for array in arrays]
"""
SHRINKS = """
def spoil(arrays):
    return [array[:, :2] for array in arrays]
"""
DIES = """
def spoil(arrays):
    import os
    os.kill(os.getppid(), 9)
"""


def place(tritons: Tritons, server: Server, program: str | None = None, **serving: Any) -> Any:
    serving = {"max_batch_size": 8, "instance_group": {"kind": "cpu", "count": 1}, **serving}
    made = spec(serving=serving, parity={"batch_sizes": [1]})
    config = tritons.place(server, made)
    if program is not None:
        tritons.put(f"{server.prefix}/{MODEL}/{VERSION}/model.py", (PROGRAM + program).encode())
        config.backend = "python"
        tritons.write_config(server, config)
    load(tritons, server)
    return config


def served(tritons: Tritons, server: Server, config: Any, samples: dict[str, Any] | None = None) -> Served:
    given = samples or recorded()
    return prove_served(server.replica, VERSION, config, given, TOLERANCE, tritons.environment)


@pytest.mark.parametrize("delay", [0, 5000])
def test_right_answers_pass_and_triton_says_that_it_batched(
    tritons: Tritons, pair: tuple[Server, Server], delay: int
) -> None:
    config = place(tritons, pair[0], dynamic_batching={"max_queue_delay_microseconds": delay})

    told = served(tritons, pair[0], config)

    assert told.batched, told
    assert max(told.batches) > 1
    together = told.samples - 6
    assert sum(size * count for size, count in told.batches.items()) == together
    assert (told.recorded, told.told_apart, told.reason, told.refused_by_queue) == (6, 6, "", 0)
    assert told.worst_of_tolerance < 1
    assert told.seconds < BUDGET_S


def test_an_execution_that_is_counted_late_is_not_taken_for_another(
    tritons: Tritons, pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton counts an execution after its answer is sent; here every reading is what the one before it should be."""
    config = place(tritons, pair[0])
    read = ReplicaClient.statistics
    with ReplicaClient(pair[0].replica, tritons.environment) as client:
        late = [read(client, MODEL)]

    def statistics(client: ReplicaClient, model: str) -> Any:
        late.append(read(client, model))
        return late[-2]

    monkeypatch.setattr(ReplicaClient, "statistics", statistics)

    told = served(tritons, pair[0], config)

    assert told.batched, told
    assert sum(size * count for size, count in told.batches.items()) == told.samples - 6


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (SWAPS, r"alone it did not: it is the answer of sample \d, so rows of a batch went to the wrong request"),
        (DRIFTS, r"among \d+ requests at once, output 'y' of sample \d differs by 0.01.* alone it did not"),
        (SHRINKS, r"requests at once, output 'y' has shape \[1, 2\], recorded \[1, 4\]"),
    ],
)
def test_what_is_wrong_in_batches_alone_is_found(
    tritons: Tritons, pair: tuple[Server, Server], program: str, words: str
) -> None:
    config = place(tritons, pair[0], program)

    with pytest.raises(ServedParityFailed, match=words):
        served(tritons, pair[0], config)


def test_a_config_that_keeps_requests_apart_is_not_said_to_batch(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = place(tritons, pair[0], SWAPS, max_batch_size=1)

    told = served(tritons, pair[0], config)

    assert (told.batched, told.batches, told.reason) == (False, {}, "its max_batch_size is 1")
    assert told.samples == told.requests == 6


def test_a_server_that_refuses_more_than_its_queue_holds_is_not_overrun(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    config = place(tritons, pair[0], queue={"max_size": 4, "timeout_ms": 5000})

    told = served(tritons, pair[0], config)

    assert told.batched or told.reason
    assert told.worst_of_tolerance < 1


def test_a_server_that_dies_in_the_first_batch_is_told_by_what_was_sent(tritons: Tritons) -> None:
    mortal = tritons.start("mortal")
    config = place(tritons, mortal, DIES, warmup=False)

    with pytest.raises(ServedParityFailed, match="it answered before, and did not after 6 requests"):
        served(tritons, mortal, config)
    mortal.kill()


def test_other_weights_are_wrong_alone_and_said_to_be_so(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    tritons.place(pair[0], model_bytes=onnx_bytes(slope=2.01))
    load(tritons, pair[0])

    with pytest.raises(ServedParityFailed, match=r"alone, output 'y' of sample 0 differs by [\d.]+ from the recorded"):
        served(tritons, pair[0], configs.build_config(spec(), VERSION))


def test_samples_that_cannot_be_told_apart_are_counted(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = place(tritons, pair[0])
    samples = recorded()
    for array in samples.values():
        array[1] = array[0]

    assert served(tritons, pair[0], config, samples).told_apart == 4
    loose = {"y": Tolerance(atol=100, rtol=0)}
    told = prove_served(pair[0].replica, VERSION, config, recorded(), loose, tritons.environment)
    assert told.told_apart == 0
    assert np.isfinite(told.worst_of_tolerance)
