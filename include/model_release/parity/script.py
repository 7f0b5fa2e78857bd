"""
A part of an ensemble in Python, run here as Triton's Python backend runs it there.

`model.py` imports `triton_python_backend_utils`, which lives inside of Triton's stub alone; what stands in for it here
has the calls that a model needs to answer a request: tensors, requests, responses, errors, the log. The real backend
runs the same file on bench, where its answers have to be the recorded ones.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_release.errors import PartFails
from model_release.spec import TEXT, PythonPart

Arrays = dict[str, npt.NDArray[Any]]
UTILS = "triton_python_backend_utils"
_NUMBER = itertools.count()
_LOG = logging.getLogger(__name__)


class Script:
    """
    One part, started as a server starts it.

    `folder` holds its `model.py`; `config` is its config.pbtxt as JSON values. Raises PartFails when it does
    not start.
    """

    def __init__(self, part: PythonPart, folder: Path, config: dict[str, Any]) -> None:
        self._part, self._folder = part, folder
        self._modules: dict[str, ModuleType] = {}
        arguments = {
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_instance_name": f"{part.model}_0",
            "model_name": part.model,
            "model_version": folder.name,
            "model_repository": str(folder.parent),
        }
        with self._own_modules(), self._told("its start"):
            self._model = _imported(folder / "model.py").TritonPythonModel()
            if hasattr(self._model, "initialize"):
                self._model.initialize(arguments)

    def __call__(self, inputs: Arrays, what: str = "its inputs") -> Arrays:
        """
        Return the outputs by name for inputs by name, batch first, as one request.

        Raises PartFails when it answers with an error, or not with what it has to.
        """
        names = [tensor.name for tensor in self._part.outputs]
        given = [Tensor(name, _for_triton(array)) for name, array in inputs.items()]
        with self._own_modules(), self._told(what):
            [response] = self._model.execute([InferenceRequest(given, names)])
            if response.has_error():
                raise ValueError(response.error().message())
            answers = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
            return {tensor.name: _from_triton(answers.get(tensor.name), tensor) for tensor in self._part.outputs}

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise PartFails(self._part.model, what, why) from error

    @contextmanager
    def _own_modules(self) -> Iterator[None]:
        """Let the files beside model.py be imported, and be this part's alone: each part is a process of its own."""
        before, path = dict(sys.modules), list(sys.path)
        sys.modules.update({UTILS: _utils(), **self._modules})
        sys.path.insert(0, str(self._folder))
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            yield
        finally:
            sys.path[:], sys.dont_write_bytecode = path, writes
            new = {name: module for name, module in sys.modules.items() if before.get(name) is not module}
            self._modules |= {name: module for name, module in new.items() if _lies_in(module, self._folder)}
            for name in [*self._modules, UTILS]:
                sys.modules.pop(name, None)
                if name in before:
                    sys.modules[name] = before[name]


def _imported(path: Path) -> ModuleType:
    name = f"_part_in_python_{next(_NUMBER)}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


def _for_triton(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return text as the backend gives it: objects that are bytes."""
    if array.dtype.kind != "U":
        return array
    return np.array([str(text).encode() for text in array.ravel()], object).reshape(array.shape)


def _from_triton(array: npt.NDArray[Any] | None, tensor: Any) -> npt.NDArray[Any]:
    """Return an answer by the type that the part gives it, as a server's client would have it."""
    if array is None:
        message = f"its response has no output {tensor.name!r}"
        raise ValueError(message)
    if tensor.dtype == TEXT:
        if array.dtype.kind not in "OSU":
            message = f"output {tensor.name!r} is {array.dtype}, and has to be text"
            raise ValueError(message)
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
        return np.array(texts, "U").reshape(array.shape)
    if array.dtype != np.dtype(tensor.dtype):
        message = f"output {tensor.name!r} is {array.dtype}, and has to be {tensor.dtype}"
        raise ValueError(message)
    return array


# --- triton_python_backend_utils -----------------------------------------------------------------


class Tensor:
    """pb_utils.Tensor, on the CPU."""

    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        """Return the tensor's name."""
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        """Return its values; text is an array of objects."""
        return self._array

    def is_cpu(self) -> bool:
        """Say where it lies."""
        return True


class TritonError:
    """pb_utils.TritonError."""

    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        """Return what it says."""
        return self._message


class TritonModelException(Exception):  # the name is Triton's
    """pb_utils.TritonModelException."""


class InferenceRequest:
    """pb_utils.InferenceRequest, as execute gets it."""

    def __init__(self, inputs: Sequence[Tensor], requested_output_names: Sequence[str]) -> None:
        self._inputs, self._names = list(inputs), list(requested_output_names)

    def inputs(self) -> list[Tensor]:
        """Return the input tensors."""
        return self._inputs

    def requested_output_names(self) -> list[str]:
        """Return the names of the outputs that are asked for."""
        return self._names

    def request_id(self) -> str:
        """Return the id that a client gave the request: none here."""
        return ""

    def correlation_id(self) -> int:
        """Return the id of a sequence: none here."""
        return 0

    def parameters(self) -> str:
        """Return the request's parameters as JSON."""
        return "{}"


class InferenceResponse:
    """pb_utils.InferenceResponse."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        """Return the output tensors."""
        return self._tensors

    def has_error(self) -> bool:
        """Say whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Return the error, if it is one."""
        return self._error


def _tensor_by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


def _config_by_name(config: dict[str, Any], what: str, name: str) -> Any:
    return next((entry for entry in config[what] if entry["name"] == name), None)


def _utils() -> ModuleType:
    """Return the module that stands in for the stub's."""
    module = ModuleType(UTILS)
    module.__dict__.update(
        Tensor=Tensor,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        InferenceRequest=InferenceRequest,
        InferenceResponse=InferenceResponse,
        Logger=SimpleNamespace(log_info=_LOG.info, log_warn=_LOG.warning, log_error=_LOG.error, log_verbose=_LOG.debug),
        get_input_tensor_by_name=lambda request, name: _tensor_by_name(request.inputs(), name),
        get_output_tensor_by_name=lambda response, name: _tensor_by_name(response.output_tensors(), name),
        get_input_config_by_name=lambda config, name: _config_by_name(config, "input", name),
        get_output_config_by_name=lambda config, name: _config_by_name(config, "output", name),
        triton_string_to_numpy=lambda name: _NUMPY_TYPES[name],
    )
    return module


_NUMPY_TYPES = {
    **{f"TYPE_{kind}": np.dtype(kind.lower()).type for kind in ("INT8", "INT16", "INT32", "INT64")},
    **{f"TYPE_{kind}": np.dtype(kind.lower()).type for kind in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "TYPE_BOOL": bool,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
