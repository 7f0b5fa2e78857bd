"""
What the Python-based backends of the sandbox share: Triton's batch is run as one, and each request gets its rows.

A copy lies beside each backend's model.py, which is all that Triton's Python stub finds.

A version can be made to suffer: the file that SANDBOX_FAULTS names maps `model/version` to {error_share, fails_above,
wrong_share, delay_ms, slow_above, hang}, and is looked at before each batch. `fails_above` fails each request with a
greater number in its first input, `slow_above` has only such ones suffer `delay_ms`. Without that file nothing is
different.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class BatchedModel:
    """One instance of one version, without what runs it."""

    #: What an error begins with.
    called = ""

    def configure(self, args: dict[str, str]) -> dict[str, Any]:
        """Read the config, which is returned; an instance on a GPU is refused."""
        config: dict[str, Any] = json.loads(args["model_config"])
        self._name = f"{args['model_name']}/{args['model_version']}"
        if args["model_instance_kind"] == "GPU":
            message = f"instance of {args['model_name']} wants KIND_GPU; this server has no GPU"
            raise pb_utils.TritonModelException(message)
        self.batching = config.get("max_batch_size", 0) > 0
        self.inputs: list[dict[str, Any]] = config["input"]
        self.outputs: list[dict[str, Any]] = config["output"]
        return config

    def run(self, feed: dict[str, np.ndarray[Any, Any]], wanted: list[str]) -> list[np.ndarray[Any, Any]]:
        """Return the wanted outputs for a whole batch."""
        raise NotImplementedError

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests that Triton batched as one, and give each its rows."""
        if not self.batching and len(requests) > 1:
            return [self.execute([request])[0] for request in requests]
        fault = _fault(self._name)
        while fault.get("hang"):
            time.sleep(0.05)
            fault = _fault(self._name)
        time.sleep(self._delay_s(requests, fault))
        try:
            responses = self._answer(requests, fault.get("wrong_share", 0))
            struck = [self._is_struck(request, fault) for request in requests]
            return [self._failed("a fault") if bad else each for bad, each in zip(struck, responses, strict=True)]
        except Exception as error:
            # Each response needs an error of its own: a shared one is freed twice in shared memory, and ends Triton.
            return [self._failed(error) for _ in requests]

    def _delay_s(self, requests: list[Any], fault: dict[str, Any]) -> float:
        above = fault.get("slow_above")
        strikes = above is None or any(self._is_above(request, above) for request in requests)
        return fault.get("delay_ms", 0) / 1000 if strikes else 0.0

    def _is_struck(self, request: Any, fault: dict[str, Any]) -> bool:
        above = fault.get("fails_above")
        if above is not None and self._is_above(request, above):
            return True
        return random.random() < fault.get("error_share", 0)

    def _is_above(self, request: Any, number: float) -> bool:
        return bool(self._array(request, self.inputs[0]["name"]).max() > number)

    def _failed(self, why: object) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.called} error: {why}"))

    def _answer(self, requests: list[Any], wrong_share: float) -> list[Any]:
        feed, rows = {}, [1] * len(requests)
        for tensor in self.inputs:
            arrays = [self._array(request, tensor["name"]) for request in requests]
            rows = [len(array) if self.batching else 1 for array in arrays]
            feed[tensor["name"]] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        results = dict(zip(wanted, self.run(feed, wanted), strict=True))
        if self.batching:
            for name, result in results.items():
                if len(result) != sum(rows):
                    message = f"output {name!r} has {len(result)} rows for {sum(rows)} rows of input"
                    raise ValueError(message)
        if wrong_share:
            results = {name: _mistaken(result, wrong_share) for name, result in results.items()}
        ends = np.cumsum(rows)
        return [
            self._response(request, results, slice(end - n, end) if self.batching else slice(None))
            for request, n, end in zip(requests, rows, ends, strict=True)
        ]

    @staticmethod
    def _array(request: Any, name: str) -> np.ndarray[Any, Any]:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is None:
            message = f"input {name!r} is missing"
            raise ValueError(message)
        return tensor.as_numpy()

    @staticmethod
    def _response(request: Any, results: dict[str, np.ndarray[Any, Any]], rows: slice) -> Any:
        tensors = []
        for name in request.requested_output_names():
            result = results[name]
            part = result[rows] if rows != slice(None) else result
            tensors.append(pb_utils.Tensor(name, np.ascontiguousarray(part)))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _mistaken(result: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Return answers of which a share is off by one place."""
    chosen = np.random.random(len(result)) < share
    return np.where(chosen.reshape(-1, *[1] * (result.ndim - 1)), np.roll(result, 1, axis=-1), result)


def _fault(name: str) -> dict[str, Any]:
    """Return what a version is to suffer now."""
    try:
        faults: dict[str, dict[str, Any]] = json.loads(Path(os.environ["SANDBOX_FAULTS"]).read_text())
    except (KeyError, OSError, ValueError):
        return {}
    return faults.get(name, {})
