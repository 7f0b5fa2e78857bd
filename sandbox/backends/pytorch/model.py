"""
TorchScript as a Python-based Triton backend: the sandbox's stand-in for the pytorch backend of production.

It takes the same config.pbtxt and the same repository layout, and honours the parameters that mean something on a CPU.
Inputs and outputs are taken by name or by place as the real backend does. torch is the project's own, whose packages
come behind those of this environment: its numpy stays the one that Triton's stub needs.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from batched import BatchedModel

sys.path.append(os.environ["SANDBOX_TORCH_PACKAGES"])
import torch

_MODEL_FILE = "model.pt"
_INDEXED = re.compile(r"__(\d+)$")


class TritonPythonModel(BatchedModel):
    """One instance of one version."""

    called = "PyTorch execute failure"

    def initialize(self, args: dict[str, str]) -> None:
        """Open the version's TorchScript file; whatever is wrong with it is the load's error."""
        config = self.configure(args)
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        self._inference_mode = _switch(parameters.get("INFERENCE_MODE", "true"))
        self._optimized = not _switch(parameters.get("DISABLE_OPTIMIZED_EXECUTION", "false"))
        torch.set_num_threads(int(parameters.get("INTRA_OP_THREAD_COUNT", 0)) or 1)
        path = _model_file(args, config)
        try:
            with warnings.catch_warnings(), torch.inference_mode(self._inference_mode):
                warnings.simplefilter("ignore")
                self._module = torch.jit.load(os.fspath(path), map_location="cpu")
        except Exception as error:
            message = f"failed to load model '{args['model_name']}': {error}"
            raise pb_utils.TritonModelException(message) from None
        arguments = [argument.name for argument in self._module.forward.schema.arguments[1:]]
        if len(arguments) < len(self.inputs):
            message = f"forward takes {arguments}, the config has {len(self.inputs)} inputs"
            raise pb_utils.TritonModelException(message)
        self._arguments = _places([tensor["name"] for tensor in self.inputs], arguments)
        self._results = _places([tensor["name"] for tensor in self.outputs], [])

    def run(self, feed: dict[str, np.ndarray[Any, Any]], wanted: list[str]) -> list[np.ndarray[Any, Any]]:
        """Return the wanted outputs for a whole batch."""
        ordered = sorted(feed, key=self._arguments.__getitem__)
        tensors = [torch.from_numpy(np.array(feed[name])) for name in ordered]
        with torch.inference_mode(self._inference_mode), torch.jit.optimized_execution(self._optimized):
            answer = self._module(*tensors)
        found = answer if isinstance(answer, tuple | list) else [answer]
        if len(found) != len(self.outputs):
            message = f"forward returns {len(found)} tensors, the config has {len(self.outputs)} outputs"
            raise ValueError(message)
        answers = {name: found[place].detach().numpy() for name, place in self._results.items()}
        for tensor in self.outputs:
            expected = pb_utils.triton_string_to_numpy(tensor["data_type"])
            if answers[tensor["name"]].dtype != expected:
                message = f"unexpected datatype {answers[tensor['name']].dtype} for output '{tensor['name']}'"
                raise ValueError(message)
        return [answers[name] for name in wanted]


def _places(names: list[str], arguments: list[str]) -> dict[str, int]:
    """Return the place of each name: forward's arguments, else what all of the names say, else the config's order."""
    if arguments and set(names) <= set(arguments):
        return {name: arguments.index(name) for name in names}
    indexed = [_INDEXED.search(name) for name in names]
    if all(indexed):
        return {name: int(index.group(1)) for name, index in zip(names, indexed, strict=True) if index}
    return {name: place for place, name in enumerate(names)}


def _switch(text: str) -> bool:
    return text.lower() in ("1", "true")


def _model_file(args: dict[str, str], config: dict[str, Any]) -> Path:
    name = config.get("default_model_filename") or _MODEL_FILE
    path = Path(args["model_repository"]) / args["model_version"] / name
    if not path.is_file():
        message = f"unable to find '{path}' for model instance '{args['model_name']}'"
        raise pb_utils.TritonModelException(message)
    return path
