"""Every kind of input and output, models without batching, and weights in a file of their own, on real Tritons."""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper

from model_release.benchmark import Meter, Target
from model_release.environment import Environment
from model_release.errors import LoadFailed, ProofFailed
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.steps import golden
from model_release.traffic import connect
from model_release.traffic.router import Route
from model_release.triton.replica import ReplicaClient
from tests.sandbox.served_parts import FLEET, VERSION, Arrays, Bench, alone, centred, graph, saved, spec, unbatched

_RANDOM = np.random.default_rng(3)
#: So many weights are more than what S3 takes and copies in one piece.
_IN_PARTS = 17_000_000
_SEQ = {"seq": {"min": 2, "max": 16}}


@pytest.fixture
def name() -> str:
    """A model's name of the test's own."""
    return f"shape_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bench(environment: Environment, tmp_path: Path, name: str) -> Iterator[Bench]:
    made = Bench(ObjectStore(environment.s3), environment, tmp_path)
    yield made
    made.clear(name)


def identities(name: str) -> tuple[ModelSpec, Any, Arrays]:
    """Numbers that lose bits when anything on the way takes them for another type."""
    arrays = {
        "ids": np.array([[2**62 + 1, -3], [5, 2**53 + 1]], np.int64),
        "half": np.array([[0.1, 65504], [6e-8, -1]], np.float16),
        "flags": np.array([[True, False, True], [False, False, True]]),
        "double": np.array([[1 + 2**-50, 1e300], [0.1, -0.0]], np.float64),
        "byte": np.array([[255], [0]], np.uint8),
    }
    types = {
        "ids": (TensorProto.INT64, "int64"),
        "half": (TensorProto.FLOAT16, "float16"),
        "flags": (TensorProto.BOOL, "bool"),
        "double": (TensorProto.DOUBLE, "float64"),
        "byte": (TensorProto.UINT8, "uint8"),
    }
    model = graph(
        [helper.make_node("Identity", [each], [f"same_{each}"]) for each in arrays],
        {each: (types[each][0], ["batch", array.shape[1]]) for each, array in arrays.items()},
        {f"same_{each}": (types[each][0], ["batch", array.shape[1]]) for each, array in arrays.items()},
    )
    exact = {"parity": {"batch_sizes": [1], "atol": 0, "rtol": 0}}
    tensors = [{"name": each, "dtype": types[each][1], "shape": [array.shape[1]]} for each, array in arrays.items()]
    outputs = [{**tensor, "name": f"same_{tensor['name']}"} for tensor in tensors]
    recorded = {f"{kind}{each}": array for each, array in arrays.items() for kind in ("input__", "output__same_")}
    return spec(name, tensors, outputs, **exact), model, recorded


def scalars(name: str) -> tuple[ModelSpec, Any, Arrays]:
    """One value a sample, going in and coming out."""
    x, scale = _RANDOM.normal(size=(5, 4)).astype(np.float32), np.arange(5, dtype=np.float64)
    model = graph(
        [
            helper.make_node("ReduceSum", ["x", "last"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["scale"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sum", "single"], ["score"]),
            helper.make_node("ArgMax", ["x"], ["top"], axis=1, keepdims=0),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 4]), "scale": (TensorProto.DOUBLE, ["batch"])},
        {"score": (TensorProto.FLOAT, ["batch"]), "top": (TensorProto.INT64, ["batch"])},
        last=np.array([1], np.int64),
    )
    made = spec(
        name,
        [{"name": "x", "dtype": "float32", "shape": [4]}, {"name": "scale", "dtype": "float64", "shape": []}],
        [{"name": "score", "dtype": "float32", "shape": []}, {"name": "top", "dtype": "int64", "shape": []}],
    )
    score = x.sum(axis=1) * scale.astype(np.float32)
    return made, model, {"input__x": x, "input__scale": scale, "output__score": score, "output__top": x.argmax(axis=1)}


def shared_axis(name: str) -> tuple[ModelSpec, Any, Arrays]:
    """Ids and their mask, of one length."""
    ids, mask = _RANDOM.integers(1, 99, (4, 7)), np.array([[1] * n + [0] * (7 - n) for n in (7, 3, 1, 5)])
    model = graph(
        [
            helper.make_node("Mul", ["ids", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "last"], ["total"], keepdims=0),
        ],
        {"ids": (TensorProto.INT64, ["batch", "seq"]), "mask": (TensorProto.INT64, ["batch", "seq"])},
        {"kept": (TensorProto.INT64, ["batch", "seq"]), "total": (TensorProto.INT64, ["batch"])},
        last=np.array([1], np.int64),
    )
    made = spec(
        name,
        [
            {"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [1, 99]},
            {"name": "mask", "dtype": "int64", "shape": ["seq"], "range": [0, 1]},
        ],
        [{"name": "kept", "dtype": "int64", "shape": ["seq"]}, {"name": "total", "dtype": "int64", "shape": []}],
        dynamic_axes=_SEQ,
    )
    kept = ids * mask
    recorded = {"input__ids": ids, "input__mask": mask, "output__kept": kept, "output__total": kept.sum(axis=1)}
    return made, model, recorded


def half_inside(name: str) -> tuple[ModelSpec, Any, Arrays]:
    """A float16 graph whose inputs and outputs stay float32."""
    x, weight = _RANDOM.normal(size=(6, 4)).astype(np.float32), _RANDOM.normal(size=(4, 3)).astype(np.float16)
    model = graph(
        [
            helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["x16", "weight"], ["y16"]),
            helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 3])},
        weight=weight,
    )
    made = spec(
        name,
        [{"name": "x", "dtype": "float32", "shape": [4]}],
        [{"name": "y", "dtype": "float32", "shape": [3]}],
        export={"precision": "fp16"},
    )
    return made, model, {"input__x": x, "output__y": x @ weight.astype(np.float32)}


def one_by_one(name: str) -> tuple[ModelSpec, Any, Arrays]:
    """Without batching, with one value a sample on both sides, and an axis of the clients' own."""
    x, scale = _RANDOM.normal(size=(5, 6)).astype(np.float32), np.arange(5, dtype=np.float32)
    model = graph(
        [
            helper.make_node("ReduceSum", ["x", "last"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "scale"], ["score"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", "seq"]), "scale": (TensorProto.FLOAT, ["batch"])},
        {"score": (TensorProto.FLOAT, ["batch"])},
        last=np.array([1], np.int64),
    )
    made = spec(
        name,
        [{"name": "x", "dtype": "float32", "shape": ["seq"]}, {"name": "scale", "dtype": "float32", "shape": []}],
        [{"name": "score", "dtype": "float32", "shape": []}],
        dynamic_axes=_SEQ,
        serving={"max_batch_size": 0, "instance_group": {"kind": "cpu", "count": 1}},
    )
    return made, model, {"input__x": x, "input__scale": scale, "output__score": x.sum(axis=1) * scale}


@pytest.mark.parametrize("case", [identities, scalars, shared_axis, half_inside, one_by_one])
def test_recorded_samples_prove_every_kind_of_tensor(bench: Bench, name: str, case: Any) -> None:
    made, model, recorded = case(name)

    config = bench.served(made, model, recorded)

    proofs = bench.proved(made, config, recorded)
    assert [proof["samples"] for proof in proofs] == [len(next(iter(recorded.values())))] * len(proofs)
    output = next(each for each in recorded if each.startswith("output__"))
    wrong = {**recorded, output: recorded[output][::-1].copy()}
    with pytest.raises(ProofFailed, match=f"output '{output.removeprefix('output__')}' of recorded samples differs"):
        bench.proved(made, config, wrong)


# --- without batching --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def centred_model(sandbox: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSpec]:
    environment = sandbox.environment
    own = Bench(ObjectStore(environment.s3), environment, tmp_path_factory.mktemp("centred"))
    made = unbatched(f"centred_{uuid.uuid4().hex[:8]}")
    config = own.served(made, centred(), alone())
    assert own.proved(made, config, alone())[0]["samples"] == 6
    yield made
    own.clear(made.name)


@pytest.fixture
def routed(environment: Environment, centred_model: ModelSpec) -> Iterator[ModelSpec]:
    router, versions = connect(environment), {FLEET: VERSION, "green": None}
    route = Route(centred_model.name, "default", 1, FLEET, None, {FLEET: 100, "green": 0}, versions)
    router.set(route)
    router.confirm(route, 20)
    yield centred_model
    router.set(replace(route, stable=None, weights={FLEET: 0, "green": 0}, versions={FLEET: None, "green": None}))


def by_http(environment: Environment, model: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    connection = http.client.HTTPConnection(environment.router.http, timeout=10)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 200, text
    (output,) = json.loads(text)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def by_grpc(environment: Environment, model: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tensor = triton_grpc.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    with triton_grpc.InferenceServerClient(environment.router.http) as client:
        found: np.ndarray[Any, Any] = client.infer(
            model, [tensor], headers={"x-model": model}, client_timeout=10
        ).as_numpy("y")
    return found


def test_each_client_is_answered_by_its_own_batch(environment: Environment, routed: ModelSpec) -> None:
    """Mixed with others, or cut in pieces, a batch would have another mean."""
    batches = [_RANDOM.normal(size=(1 + number % 5, 4)).astype(np.float32) for number in range(40)]
    asks = itertools.cycle([by_http, by_grpc])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x, ask: ask(environment, routed.name, x), batches, asks))

    for x, y in zip(batches, answers, strict=True):
        np.testing.assert_allclose(y, x - x.mean(axis=0), atol=1e-5)


def test_the_warm_up_of_a_model_without_batching_is_run(bench: Bench, name: str) -> None:
    """What Triton passes over in silence would not miss its input."""
    made = unbatched(name)
    manifest = bench.seal(made, saved(centred(), bench.folder / "made", several=False), alone())
    without = manifest.model_copy(update={"files": {k: v for k, v in manifest.files.items() if "warmup" not in k}})

    with pytest.raises(LoadFailed, match="warmup"):
        bench.serve(made, without)


def test_perf_analyzer_measures_a_model_without_batching(environment: Environment, centred_model: ModelSpec) -> None:
    replica = environment.pair("default").fleet(FLEET).replicas[0]

    with Meter(Target(centred_model.name, replica, environment, alone(), batching=False)) as meter:
        run = meter.run(2, 1.5)

    assert run.throughput_per_s > 0
    assert set(run.batch_sizes) <= {0, 1}


def test_golden_samples_of_a_model_without_batching_are_asked_one_by_one(
    environment: Environment, centred_model: ModelSpec, tmp_path: Path
) -> None:
    """Alone every answer is four zeros, and the first of equals is the place of the largest."""
    path = tmp_path / "golden.npz"
    np.savez(path, x=alone(40)["input__x"], label=np.zeros(40, np.int64))
    made = unbatched(centred_model.name, accuracy={"golden_set": path.as_uri()})
    pair = SimpleNamespace(bench=environment.pair("default").fleet(FLEET))
    release = SimpleNamespace(model=made.name)
    step: Any = SimpleNamespace(spec=made, pair=pair, environment=environment, release=release)

    right = golden.right_on_bench(step, VERSION, made)

    assert right is not None
    assert right.tolist() == [True] * 40


# --- weights in a file of their own ------------------------------------------------------------


def line(slope: float, weights: int) -> Any:
    """Return the graph of y = slope * x, whose slope is the last of so many weights."""
    table = np.arange(weights, dtype=np.float32)
    table[-1] = slope
    return graph(
        [
            helper.make_node("Gather", ["table", "place"], ["slope"]),
            helper.make_node("Mul", ["x", "slope"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
        table=table,
        place=np.array([-1], np.int64),
    )


def test_versions_in_one_file_and_in_several_follow_each_other(bench: Bench, name: str) -> None:
    tensor = {"dtype": "float32", "shape": [4]}
    made = spec(name, [{"name": "x", **tensor}], [{"name": "y", **tensor}])
    x = alone()["input__x"]
    for number, (several, weights) in enumerate([(False, 9), (True, _IN_PARTS), (False, 9)]):
        version, slope = VERSION + number, 2.0 + number
        files = saved(line(slope, weights), bench.folder / str(number), several=several)
        recorded = {"input__x": x, "output__y": np.float32(slope) * x}

        manifest = bench.seal(made, files, recorded, version)
        config = bench.serve(made, manifest)

        assert set(files) == ({"model.onnx", "model.onnx.data"} if several else {"model.onnx"})
        assert bench.proved(made, config, recorded)
        model = ["model.onnx/model.onnx", "model.onnx/model.onnx.data"] if several else ["model.onnx"]
        assert bench.keys(name) == [*(f"{version}/{key}" for key in model), "config.pbtxt", "warmup/x"]
    with ReplicaClient(bench.environment.pair("default").fleet(FLEET).replicas[0], bench.environment) as client:
        assert [entry.version for entry in client.index(name) if entry.state == "READY"] == [VERSION + 2]
