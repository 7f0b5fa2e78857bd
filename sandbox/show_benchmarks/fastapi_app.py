"""
The usual server of an ONNX file: FastAPI, pydantic, one onnxruntime session a worker, no batching.

It answers in the JSON of the KServe protocol, so that the same load generator drives it and Triton. What perf_analyzer
asks besides (metadata, config, statistics) is answered as a Triton would; no time of the server is in it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

MODEL, MAX_BATCH_SIZE = os.environ.get("SHOWN_MODEL", ""), int(os.environ.get("SHOWN_MAX_BATCH_SIZE", "1"))
_TYPES = {"tensor(float)": ("FP32", "TYPE_FP32", np.float32), "tensor(int64)": ("INT64", "TYPE_INT64", np.int64)}


class Tensor(BaseModel):
    """One input of a request."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Inference(BaseModel):
    """A request."""

    inputs: list[Tensor]


def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["SHOWN_ONNX"], options, providers=["CPUExecutionProvider"])


session: Any = _session() if "SHOWN_ONNX" in os.environ else None
app = FastAPI()


def _described(nodes: Any) -> list[dict[str, Any]]:
    return [{"name": node.name, "datatype": _TYPES[node.type][0], "shape": [-1, *_sizes(node.shape)]} for node in nodes]


def _configured(nodes: Any) -> list[dict[str, Any]]:
    return [{"name": node.name, "data_type": _TYPES[node.type][1], "dims": _sizes(node.shape)} for node in nodes]


def _sizes(shape: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape[1:]]


@app.get("/v2")
def server() -> dict[str, Any]:
    """Return the server's metadata."""
    return {"name": "fastapi", "version": "1", "extensions": []}


@app.get("/v2/health/live")
@app.get("/v2/health/ready")
def health() -> dict[str, Any]:
    """Answer that it is up."""
    return {}


@app.get(f"/v2/models/{MODEL}")
@app.get(f"/v2/models/{MODEL}/versions/1")
def metadata() -> dict[str, Any]:
    """Return the model's inputs and outputs."""
    inputs, outputs = _described(session.get_inputs()), _described(session.get_outputs())
    return {"name": MODEL, "versions": ["1"], "platform": "onnxruntime", "inputs": inputs, "outputs": outputs}


@app.get(f"/v2/models/{MODEL}/config")
@app.get(f"/v2/models/{MODEL}/versions/1/config")
def config() -> dict[str, Any]:
    """Return the model's config."""
    parts = {"input": _configured(session.get_inputs()), "output": _configured(session.get_outputs())}
    return {"name": MODEL, "platform": "", "backend": "onnxruntime", "max_batch_size": MAX_BATCH_SIZE, **parts}


@app.get(f"/v2/models/{MODEL}/stats")
@app.get(f"/v2/models/{MODEL}/versions/1/stats")
def statistics() -> dict[str, Any]:
    """Return statistics in which nothing was counted."""
    none = {"count": 0, "ns": 0}
    kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    stats = {"name": MODEL, "version": "1", "last_inference": 0, "inference_count": 0, "execution_count": 0}
    return {"model_stats": [{**stats, "inference_stats": dict.fromkeys(kinds, none), "batch_stats": []}]}


@app.post(f"/v2/models/{MODEL}/infer")
@app.post(f"/v2/models/{MODEL}/versions/1/infer")
def infer(asked: Inference) -> dict[str, Any]:
    """Answer one request by itself."""
    types = {node.name: _TYPES[node.type][2] for node in session.get_inputs()}
    feed = {each.name: np.array(each.data, types[each.name]).reshape(each.shape) for each in asked.inputs}
    names = [node.name for node in session.get_outputs()]
    outputs = [
        {"name": name, "datatype": "FP32", "shape": list(value.shape), "data": value.ravel().tolist()}
        for name, value in zip(names, session.run(names, feed), strict=True)
    ]
    return {"model_name": MODEL, "model_version": "1", "outputs": outputs}
