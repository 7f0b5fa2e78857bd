"""Loading and proving a version on real Tritons that read a real S3, each failure as its own sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from model_release.errors import LoadFailed, ProofFailed, Superseded
from model_release.triton import config as configs
from model_release.triton.compare import differences
from model_release.triton.fleet import load_everywhere, prove, unload_everywhere
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
    proofs,
    recorded,
    spec,
    tritons,
    unclaimed,
)

__all__ = ["emptied", "pair", "tritons"]
pytestmark = pytest.mark.usefixtures("emptied")


def test_a_version_is_loaded_and_proved_on_every_replica(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    for server in pair:
        config = tritons.place(server)
    load(tritons, *pair)

    proved = proofs(tritons, pair, config)

    assert [proof["replica"] for proof in proved] == ["fleet-0", "fleet-1"]
    assert {proof["release_digest"] for proof in proved} == {configs.release_digest(config)}


def test_every_field_that_is_set_comes_back_equal(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    """The warm-up takes a dynamic axis at its least size, out of a longer recorded sample."""
    everything = spec(
        inputs=[
            {"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [0, 9]},
            {"name": "half", "dtype": "float16", "shape": ["seq", 2]},
            {"name": "flag", "dtype": "bool", "shape": []},
        ],
        outputs=[
            {"name": "same_ids", "dtype": "int64", "shape": ["seq"]},
            {"name": "same_half", "dtype": "float16", "shape": ["seq", 2]},
            {"name": "same_flag", "dtype": "bool", "shape": []},
        ],
        dynamic_axes={"seq": {"min": 2, "max": 16}},
        serving={
            "max_batch_size": 8,
            "instance_group": {"kind": "cpu", "count": 2},
            "dynamic_batching": {"max_queue_delay_microseconds": 0, "preferred_batch_size": [4, 8]},
            "queue": {"max_size": 7, "timeout_ms": 250},
            "parameters": {"intra_op_thread_count": "2"},
        },
    )
    samples = {
        "ids": np.arange(15, dtype=np.int64).reshape(3, 5),
        "half": np.arange(30, dtype=np.float16).reshape(3, 5, 2),
        "flag": np.array([True, False, True]),
    }
    server = pair[0]
    for name, array in samples.items():
        tritons.put(f"{server.prefix}/{MODEL}/warmup/{name}", array[0].tobytes())
    tritons.put(f"{server.prefix}/{MODEL}/{VERSION}/model.onnx", _identity_bytes())
    config = configs.build_config(everything, VERSION)
    tritons.write_config(server, config)
    load(tritons, server)

    with ReplicaClient(server.replica, tritons.environment) as client:
        served = client.config(MODEL)
        answers = client.infer(MODEL, samples)

    assert differences(config, served) == []
    assert served.parameters["release_digest"].string_value == configs.release_digest(config)
    assert answers["same_flag"].shape == (3, 1)
    assert all(np.array_equal(answers[f"same_{name}"].reshape(array.shape), array) for name, array in samples.items())


def _identity_bytes() -> bytes:
    tensors = {
        "ids": (TensorProto.INT64, ["batch", "seq"]),
        "half": (TensorProto.FLOAT16, ["batch", "seq", 2]),
        "flag": (TensorProto.BOOL, ["batch"]),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"same_{name}"]) for name in tensors],
        MODEL,
        [helper.make_tensor_value_info(name, *what) for name, what in tensors.items()],
        [helper.make_tensor_value_info(f"same_{name}", *what) for name, what in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_recorded_scalar_per_sample_is_proved(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    """Triton wants [n, 1] where the recorded array is [n]."""
    scalars = spec(
        inputs=[{"name": "flag", "dtype": "bool", "shape": []}],
        outputs=[{"name": "same_flag", "dtype": "bool", "shape": []}],
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["flag"], ["same_flag"])],
        MODEL,
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, ["batch"])],
        [helper.make_tensor_value_info("same_flag", TensorProto.BOOL, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    flags = np.array([True, False, True])
    tritons.put(f"{pair[0].prefix}/{MODEL}/warmup/flag", flags[0].tobytes())
    config = tritons.place(pair[0], scalars, model_bytes=model.SerializeToString())
    load(tritons, pair[0])

    fleet = tritons.fleet(pair[0])
    samples = {"input__flag": flags, "output__same_flag": flags}
    exact = {"same_flag": scalars.tolerance("same_flag")}
    assert prove(fleet, MODEL, VERSION, config, samples, exact, tritons.environment)[0]["samples"] == 3


def test_an_automatic_kind_is_proved_as_what_the_server_chose(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0], spec(serving={"max_batch_size": 8, "instance_group": {"kind": "auto"}}))
    load(tritons, pair[0])

    assert len(proofs(tritons, pair[:1], config)) == 1


def test_one_replica_that_refuses_the_load_is_named(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    tritons.place(pair[0])
    tritons.place(pair[1], model_bytes=b"no ONNX at all")

    with pytest.raises(LoadFailed, match=rf"fleet-1 refused to load {MODEL} version {VERSION}.*onnx runtime error"):
        load(tritons, *pair)


def test_a_gpu_config_is_refused_by_a_server_without_one(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    tritons.place(pair[0], spec(serving={"max_batch_size": 8, "instance_group": {"kind": "gpu"}}))

    with pytest.raises(LoadFailed, match="fleet-0 refused"):
        load(tritons, pair[0])


def test_a_version_that_is_named_but_absent_is_not_taken_for_loaded(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    """Triton answers 200 to this load when another version is there."""
    config = tritons.place(pair[0])
    load(tritons, pair[0])
    config.version_policy.specific.versions[:] = [VERSION, VERSION + 1]
    tritons.write_config(pair[0], config)

    with pytest.raises(LoadFailed, match=f"it answered that it did, but its index says: {VERSION} READY"):
        load(tritons, pair[0], version=VERSION + 1)


def test_a_failed_reload_is_an_error_though_the_old_version_stays_ready(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    old = tritons.place(pair[0])
    load(tritons, pair[0])
    tritons.place(pair[0], version=VERSION + 1, model_bytes=b"broken")

    with pytest.raises(LoadFailed, match="fleet-0"):
        load(tritons, pair[0], version=VERSION + 1)

    assert proofs(tritons, pair[:1], old)


def test_a_new_version_replaces_the_old_one(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    tritons.place(pair[0])
    load(tritons, pair[0])
    config = tritons.place(pair[0], version=VERSION + 1, model_bytes=onnx_bytes(slope=3.0))
    load(tritons, pair[0], version=VERSION + 1)

    proofs(tritons, pair[:1], config, slope=3.0, version=VERSION + 1)
    with pytest.raises(ProofFailed, match=f"{VERSION + 1} READY"):
        proofs(tritons, pair[:1], config, slope=3.0)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("max_queue_delay_microseconds", lambda c: setattr(c.dynamic_batching, "max_queue_delay_microseconds", 9000)),
        ("max_queue_size", lambda c: setattr(c.dynamic_batching.default_queue_policy, "max_queue_size", 1)),
        (r"instance_group\[0\].count", lambda c: setattr(c.instance_group[0], "count", 3)),
        ("model_warmup has 0 entries", lambda c: c.ClearField("model_warmup")),
        ("release_digest", lambda c: setattr(c.parameters["release_digest"], "string_value", "f" * 64)),
    ],
)
def test_a_config_changed_behind_our_back_is_named_by_its_field(
    tritons: Tritons, pair: tuple[Server, Server], field: str, change: Any
) -> None:
    limited = spec(serving={"max_batch_size": 8, "queue": {"max_size": 64, "timeout_ms": 10_000}})
    config = tritons.place(pair[0], limited, change=change)
    load(tritons, pair[0])

    with pytest.raises(ProofFailed, match=rf"fleet-0 is not proved.*{field}"):
        proofs(tritons, pair[:1], config)


def test_other_weights_under_the_same_config_are_found(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0])
    tritons.place(pair[1], model_bytes=onnx_bytes(slope=2.01))
    load(tritons, *pair)

    with pytest.raises(ProofFailed, match=r"fleet-1 .*output 'y' of recorded samples differs by"):
        proofs(tritons, pair, config)


def test_a_model_that_was_never_loaded_is_not_proved(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0], spec(name="untouched"))
    fleet = tritons.fleet(pair[0])

    with pytest.raises(ProofFailed, match="no version loaded"):
        prove(fleet, "untouched", VERSION, config, recorded(), TOLERANCE, tritons.environment)
    tritons.remove(pair[0], "untouched")


def test_a_model_that_is_not_there_is_a_failed_load(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    with pytest.raises(LoadFailed, match="fleet-0"):
        load(tritons, pair[0])


def test_unload_leaves_nothing_ready(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0])
    load(tritons, pair[0])
    unload_everywhere(tritons.fleet(*pair), MODEL, tritons.environment, unclaimed)

    with ReplicaClient(pair[0].replica, tritons.environment) as client:
        assert not client.ready(MODEL)
    with pytest.raises(ProofFailed, match=f"{VERSION} UNAVAILABLE"):
        proofs(tritons, pair[:1], config)


def test_a_lost_claim_stops_before_the_control_call(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    for server in pair:
        tritons.place(server)
    calls = iter([None, Superseded(MODEL, 1, 2, "run-2#0")])

    def check() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(Superseded):
        load_everywhere(tritons.fleet(*pair), MODEL, VERSION, tritons.environment, check)

    ready = [ReplicaClient(server.replica, tritons.environment).ready(MODEL) for server in pair]
    assert ready == [True, False]
