"""A model that is put on blue by hand, and the clients that reach it through the router."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper

from model_release.traffic import connect
from model_release.traffic.router import Route
from model_release.triton.replica import ReplicaClient
from tests.sandbox.conftest import Sandbox

MODEL = "doubler"
VERSION = 7
CONFIG = f"""name: "{MODEL}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] }} ]
version_policy {{ specific {{ versions: [ {VERSION} ] }} }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def doubler() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        MODEL,
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    body: bytes = model.SerializeToString()
    return body


def http(
    method: str, address: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    data, named = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}", data, {**named, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def awaited(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def routed(sandbox: Sandbox) -> str:
    """The router's address, behind which both blue replicas serve a model that was put there by hand."""
    environment, s3 = sandbox.environment, sandbox.s3_client()
    folder = f"serving/default/blue/{MODEL}"
    s3.put_object(Bucket="models", Key=f"{folder}/{VERSION}/model.onnx", Body=doubler())
    s3.put_object(Bucket="models", Key=f"{folder}/config.pbtxt", Body=CONFIG.encode())
    for replica in environment.pairs["default"].blue.replicas:
        with ReplicaClient(replica, environment) as client:
            client.load(MODEL, 60, version=VERSION)
    route = Route(MODEL, "default", 1, "blue", None, {"blue": 100, "green": 0}, {"blue": VERSION, "green": None})
    router = connect(environment)
    router.set(route)
    router.confirm(route, 20)
    return environment.router.http


def infer_by_http(router: str) -> tuple[int, dict[str, str], str]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2]}
    return http("POST", f"{router}/v2/models/{MODEL}/infer", {"inputs": [tensor]})


def serves_by_http(router: str) -> bool:
    try:
        status, _, text = infer_by_http(router)
    except OSError:
        return False
    return status == 200 and json.loads(text)["outputs"][0]["data"] == [3.0, -4.0]


def infer_by_grpc(router: str) -> list[float]:
    tensor = triton_grpc.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1.5, -2]], dtype=np.float32))
    with triton_grpc.InferenceServerClient(router) as client:
        answer = client.infer(MODEL, [tensor], headers={"x-model": MODEL}, client_timeout=10)
    found: list[float] = answer.as_numpy("y")[0].tolist()
    return found
