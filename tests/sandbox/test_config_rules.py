"""config.pbtxt and the real Triton: what it refuses, what it takes, and that each field that we set comes back."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tritonclient.grpc import InferenceServerClient, InferInput

from model_release.environment import Replica
from model_release.errors import LoadFailed, ReplicaUnavailable
from model_release.spec import ModelSpec
from model_release.spec_files import load_specs
from model_release.triton import config as configs
from model_release.triton.neighbours import clashes
from model_release.triton.replica import ReplicaClient
from sandbox.settings import HOST, ROOT
from sandbox.triton import prepare_backends, replica_command, replica_environment
from tests.sandbox.ports import free_ports
from tests.sandbox.round_trip import unlike
from tests.sandbox.triton_parts import VENV, await_true, onnx_bytes
from tests.unit.config_cases import CASES, VERSION, line_spec, sharing
from tests.unit.served_toys import ENVIRONMENT

LOAD_TIMEOUT_S = 20
CACHES = VENV / "lib/python3.11/site-packages/pytriton/tritonserver/caches"
ALL, _ = load_specs(ROOT / "include" / "model_configs")
#: An ensemble's configs come back in test_ensemble.py, where its parts lie beside it.
EXAMPLES = {name: spec for name, spec in ALL.items() if spec.serving.ensemble is None}
FLAGS = [
    "--rate-limit=execution_count",
    "--rate-limit-resource=cores:2",
    f"--cache-directory={CACHES.absolute()}",
    "--cache-config=local,size=1048576",
]


@dataclass
class Local:
    """One Triton that reads a folder: rules are the same on S3, and there a change needs a second of its own."""

    folder: Path
    address: str
    process: subprocess.Popen[bytes]
    client: ReplicaClient

    @property
    def log(self) -> str:
        """What the server wrote, with quotes inside of its messages as they were."""
        return (self.folder / "log").read_text().replace('\\"', '"')

    def place(self, spec: ModelSpec, config: Any, model: bytes, samples: dict[str, np.ndarray[Any, Any]]) -> None:
        root = self.folder / "repository" / spec.name
        (root / str(VERSION)).mkdir(parents=True, exist_ok=True)
        (root / "warmup").mkdir(exist_ok=True)
        (root / str(VERSION) / spec.serving.model_file).write_bytes(model)
        for name, array in samples.items():
            (root / "warmup" / name).write_bytes(array.tobytes())
        (root / "config.pbtxt").write_text(configs.render(config, epoch=1))

    def load(self, model: str) -> None:
        self.client.load(model, LOAD_TIMEOUT_S, version=VERSION)

    def unload(self, model: str) -> None:
        self.client.unload(model)
        await_true(lambda: not self.client.ready(model), 10)


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Local]:
    """Start a Triton that limits rates and caches responses; it is gone afterwards."""
    http, grpc, metrics = islice(free_ports(), 3)
    repository = tmp_path / "repository"
    repository.mkdir()
    command = replica_command(VENV, prepare_backends(VENV, tmp_path), str(repository), http, grpc, metrics)
    replica = Replica(name="local", http=f"{HOST}:{http}", grpc=f"{HOST}:{grpc}", metrics=f"{HOST}:{metrics}")
    variables = replica_environment(VENV, "none", "none", tmp_path / "temp")
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen([*command, *FLAGS], env=variables, stdout=out, stderr=out)
    started = Local(tmp_path, replica.grpc, process, ReplicaClient(replica, ENVIRONMENT))
    try:
        await_true(started.client.live, 60, lambda: started.log[-2000:], process)
        yield started
    finally:
        started.client.close()
        process.kill()
        process.wait(10)


def good(triton: Local) -> Any:
    config = configs.build_config(line_spec(), VERSION)
    triton.place(line_spec(), config, onnx_bytes(), {"x": np.ones(4, np.float32)})
    return config


def loads(triton: Local) -> bool:
    """Whether the model loads as it lies there; it is gone again afterwards."""
    try:
        triton.load("line")
    except LoadFailed:
        return False
    triton.unload("line")
    return True


def test_what_our_rules_say_of_triton_is_so(triton: Local) -> None:
    """The one that leaves a server useless comes last."""
    order = ["refuses", "takes", "refuses all from then on"]
    good(triton)
    assert loads(triton)
    wrong = []
    for case in sorted((case for case in CASES if case.triton in order), key=lambda case: order.index(case.triton)):
        config = good(triton)
        if case.triton == "refuses all from then on":
            assert loads(triton)
        case.change(config)
        triton.place(line_spec(), config, onnx_bytes(), {})
        before = len(triton.log)
        taken = loads(triton)
        if taken != (case.triton == "takes") or case.log not in triton.log[before:]:
            wrong.append((case.name, "took it" if taken else triton.log[before:][-600:]))
    assert wrong == []
    good(triton)
    assert not loads(triton)


def test_two_models_that_clash_leave_a_server_that_loads_nothing(triton: Local) -> None:
    """The first is unloaded when the second comes: what a server has seen of a resource it keeps for its life."""
    first, second = sharing(True), sharing(False, "second")
    made = {spec.name: configs.build_config(spec, VERSION) for spec in (first, second)}
    for spec in (first, second):
        triton.place(spec, made[spec.name], onnx_bytes(), {"x": np.ones(4, np.float32)})
    assert loads(triton)

    with pytest.raises(LoadFailed, match="present as both global and device-specific resource"):
        triton.load("second")

    assert clashes(made["line"], {"second": made["second"]}) != []
    good(triton)
    assert not loads(triton)


def test_a_warm_up_above_the_largest_batch_is_refused_or_ends_the_server(triton: Local) -> None:
    (case,) = (case for case in CASES if case.triton == "refuses or ends")
    config = good(triton)
    case.change(config)
    triton.place(line_spec(), config, onnx_bytes(), {})

    with pytest.raises((LoadFailed, ReplicaUnavailable)) as told:
        triton.load("line")
    if isinstance(told.value, ReplicaUnavailable):
        assert triton.process.wait(10) != 0
    else:
        assert "max allowed is 8" in str(told.value)


def everything() -> ModelSpec:
    """Return a spec that sets each field which a Triton without a GPU takes."""
    return line_spec(
        instance_group={
            "kind": "cpu",
            "count": 2,
            "rate_limiter": {"resources": [{"name": "cores", "count": 1}], "priority": 2},
        },
        dynamic_batching={"max_queue_delay_microseconds": 700, "preferred_batch_size": [3, 8]},
        queue={
            "max_size": 64,
            "timeout_ms": 5000,
            "timeout_action": "delay",
            "allow_timeout_override": True,
            "priority_levels": 3,
            "default_priority_level": 2,
            "priorities": {1: {"max_size": 8, "timeout_ms": None}, 3: {"max_size": 4, "timeout_action": "reject"}},
        },
        response_cache=True,
        parameters={
            "intra_op_thread_count": 1,
            "inter_op_thread_count": 1,
            "execution_mode": 0,
            "enable_mem_arena": False,
            "enable_mem_pattern": True,
            "memory.enable_memory_arena_shrinkage": "cpu:0",
            "session.use_device_allocator_for_initializers": "1",
        },
        accelerators=[{"name": "openvino"}],
        raw={
            "optimization": {"graph": {"level": 1}, "eager_batching": True, "input_pinned_memory": {"enable": False}},
            "metric_tags": {"team": "vision"},
            "parameters": {"newer": {"string_value": "1"}},
            "instance_group": [{"host_policy": "numa_0"}],
        },
    )


def in_order() -> ModelSpec:
    """Return the one field that `everything` excludes."""
    return line_spec(dynamic_batching={"preserve_ordering": True}, queue={"timeout_ms": 1000})


ROUND_TRIPS = [*EXAMPLES.values(), everything(), in_order(), line_spec(max_batch_size=0)]


def test_every_field_comes_back_from_the_real_server(triton: Local) -> None:
    assert len(EXAMPLES) >= 2
    for spec in ROUND_TRIPS:
        config, samples = configs.build_config(spec, VERSION), samples_of(spec)
        triton.place(spec, config, answering(spec), {name: array[0] for name, array in samples.items()})
        triton.load(spec.name)

        served = triton.client.config(spec.name)

        assert unlike(config, served) == []
        answers = triton.client.infer(spec.name, samples, batching=spec.serving.batching)
        assert {name: array.shape for name, array in answers.items()} == {
            tensor.name: (2, *sizes(tensor.shape, spec)) for tensor in spec.outputs
        }
        triton.unload(spec.name)


def test_priorities_timeouts_and_the_cache_are_honoured_and_not_only_echoed(triton: Local) -> None:
    spec = everything()
    triton.place(spec, configs.build_config(spec, VERSION), onnx_bytes(), {"x": np.ones(4, np.float32)})
    triton.load(spec.name)
    x = InferInput("x", [1, 4], "FP32").set_data_from_numpy(np.ones((1, 4), np.float32))

    with InferenceServerClient(triton.address) as client:
        for priority in (0, 1, 3):
            answer = client.infer(spec.name, [x], priority=priority, timeout=1_000_000)
            assert np.array_equal(answer.as_numpy("y"), np.full((1, 4), 2, np.float32))
        (told,) = client.get_inference_statistics(spec.name).model_stats

    assert (told.inference_stats.cache_miss.count, told.inference_stats.cache_hit.count) == (1, 2)


def sizes(shape: list[int | str], spec: ModelSpec) -> list[int]:
    return [spec.dynamic_axes[size].max if isinstance(size, str) else size for size in shape]


def samples_of(spec: ModelSpec) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: np.ones((2, *sizes(tensor.shape, spec)), tensor.dtype) for tensor in spec.inputs}


def answering(spec: ModelSpec) -> bytes:
    """Return a file of a spec's inputs and outputs; it answers zeros, a row each for the first input's rows."""
    if spec.serving.backend == "pytorch":
        return answering_torchscript(spec)
    first, nodes, weights = spec.inputs[0], [], []
    for place, tensor in enumerate(spec.outputs):
        rest = np.array([size if isinstance(size, int) else 1 for size in tensor.shape], np.int64)
        weights.append(numpy_helper.from_array(rest, f"rest_{place}"))
        zero = numpy_helper.from_array(np.zeros(1, tensor.dtype))
        nodes += [
            helper.make_node("Shape", [first.name], [f"rows_{place}"], start=0, end=1),
            helper.make_node("Concat", [f"rows_{place}", f"rest_{place}"], [f"shape_{place}"], axis=0),
            helper.make_node("ConstantOfShape", [f"shape_{place}"], [tensor.name], value=zero),
        ]
    graph = helper.make_graph(nodes, spec.name, *(described(part) for part in (spec.inputs, spec.outputs)), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def answering_torchscript(spec: ModelSpec) -> bytes:
    import torch

    names = [tensor.name for tensor in spec.inputs]
    zeros = [
        f"torch.zeros([{names[0]}.shape[0]{''.join(f', {size}' for size in tensor.shape)}], dtype=torch.{tensor.dtype})"
        for tensor in spec.outputs
    ]
    module = torch.jit.script(torch.nn.Module())
    module.define(f"def forward(self, {', '.join(names)}):\n    return {', '.join(zeros)}\n")
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    return stream.getvalue()


def described(tensors: Any) -> list[Any]:
    return [
        helper.make_tensor_value_info(
            tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), ["batch", *tensor.shape]
        )
        for tensor in tensors
    ]
