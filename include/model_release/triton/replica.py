"""
One Triton replica over gRPC: every call has a deadline, and every error is a sentence that names the replica.

It is spoken to directly, never through a proxy or the router: what it says counts for it alone. Each call carries the
key of the environment; one that the replica's restricted control API refuses raises ControlRefused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from model_release.environment import Environment, Replica
from model_release.errors import ControlRefused, LoadFailed, ProofFailed, ReplicaUnavailable
from model_release.spec import owner_of

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.grpc.model_config_pb2 import ModelConfig

T = TypeVar("T")
Arrays = dict[str, np.ndarray[Any, Any]]
#: No proxy of the environment stands between, and a replica that came back is dialled at once, by this client too.
_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
#: What Triton says when `default_queue_policy` refuses a request, as UNAVAILABLE.
_QUEUE_REFUSES = ("Exceeds maximum queue size", "Request timeout expired")
_KEY_HEADER = "triton-grpc-protocol-"
#: Triton's answer to a call without the key, told as UNAVAILABLE, as a server that is down is.
_RESTRICTED = re.compile(r"is restricted, expecting header '([^']+)'")
_TRITON_DTYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_BYTES = "BYTES"


@dataclass(frozen=True)
class IndexEntry:
    """What a replica's repository index says of one version; a model that was never loaded has version None."""

    model: str
    version: int | None
    state: str
    reason: str


@dataclass(frozen=True)
class VersionStatistics:
    """Counts of one version since it was loaded; `batch_sizes` is how often a batch of that size was executed."""

    version: int
    succeeded: int
    failed: int
    batch_sizes: dict[int, int]


class ReplicaError(Exception):
    """The replica answered with an error; its own words."""


class ReplicaClient:
    """The calls of one replica that the pipeline needs."""

    def __init__(self, replica: Replica, environment: Environment) -> None:
        self.name = replica.name
        self._address = replica.grpc
        self._timeout_s = environment.call_timeout_s
        self._headers = key_header(environment)

    def __enter__(self) -> ReplicaClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection if there is one."""
        if "_client" in self.__dict__:
            self.__dict__.pop("_client").close()

    def live(self) -> bool:
        """Return whether the server answers at all."""
        try:
            return bool(self._call(lambda client, **to: client.is_server_live(**to)))
        except (ReplicaUnavailable, ReplicaError):
            return False

    def index(self, model: str | None = None) -> list[IndexEntry]:
        """Return the repository index, of all models or of one. Raises ReplicaUnavailable."""
        with self._any_error_means_unavailable():
            answer = self._call(lambda client, **to: client.get_model_repository_index(**to))
        return [
            IndexEntry(entry.name, int(entry.version) if entry.version else None, entry.state, entry.reason)
            for entry in answer.models
            if model in {None, entry.name}
        ]

    def triton_models(self, model: str) -> list[str]:
        """
        Return the Triton models of a model that the replica may have: the model itself, then the parts of an ensemble.

        Those in its repository, and those that are loaded though they left it. Raises ReplicaUnavailable.
        """
        with self._any_error_means_unavailable():
            loaded = self._call(lambda client, **to: client.get_inference_statistics(**to)).model_stats
        names = {entry.name for entry in loaded} | {entry.model for entry in self.index()}
        return [model, *sorted(name for name in names if name != model and owner_of(name) == model)]

    def ready(self, model: str, version: int | None = None) -> bool:
        """Return whether the model (that version of it) is READY. Raises ReplicaUnavailable."""
        with self._any_error_means_unavailable():
            return bool(self._call(lambda client, **to: client.is_model_ready(model, str(version or ""), **to)))

    def load(self, model: str, timeout_s: float, *, version: int, config: ModelConfig | None = None) -> None:
        """
        Have the model loaded as the repository says, and wait for it; `version` only names it in an error.

        With `config` it is that one in place of the repository's, until the model is unloaded: on a server of somebody
        else alone, since a replica of ours serves what its prefix says.

        A success proves nothing: a version that is named but absent is skipped in silence, and what is not newer is
        not read again. Raises LoadFailed with the server's sentence or when there is no answer within `timeout_s`,
        ReplicaUnavailable.
        """
        try:
            text = None if config is None else _as_json(config)
            self._call(lambda client, **to: client.load_model(model, config=text, **to), timeout_s=timeout_s)
        except _DeadlineExceeded:
            why = f"no answer within {timeout_s:g} s; if its index stays at LOADING, restart the replica"
            raise LoadFailed(self.name, model, version, why) from None
        except ReplicaError as error:
            raise LoadFailed(self.name, model, version, str(error)) from None

    def unload(self, model: str) -> None:
        """Have every version unloaded; some may still be UNLOADING after it. Raises ReplicaUnavailable."""
        with self._any_error_means_unavailable():
            self._call(lambda client, **to: client.unload_model(model, **to))

    def config(self, model: str) -> ModelConfig:
        """Return the config that is served, with what Triton filled in. Raises ReplicaUnavailable, ReplicaError."""
        return self._call(lambda client, **to: client.get_model_config(model, **to)).config

    def infer(self, model: str, inputs: Arrays, version: int | None = None, *, batching: bool = True) -> Arrays:
        """
        Return the outputs for a batch of inputs, batch axis first.

        One value a sample goes as [n, 1], Triton's shape, but as [n] to a model that is served without batching. Raises
        ReplicaUnavailable, and ProofFailed when the server answers with an error.
        """
        tensors = _tensors(inputs, batching=batching)
        try:
            answer = self._call(lambda client, **to: client.infer(model, tensors, str(version or ""), **to))
        except ReplicaError as error:
            said = str(error).rstrip(".")
            raise ProofFailed(self.name, model, version, f"it answers an inference with: {said}") from None
        return _arrays(answer)

    def statistics(self, model: str) -> list[VersionStatistics]:
        """Return the counts of each loaded version; empty when none is loaded. Raises ReplicaUnavailable."""
        try:
            answer = self._call(lambda client, **to: client.get_inference_statistics(model, **to))
        except _DeadlineExceeded as error:
            raise ReplicaUnavailable(self.name, str(error)) from None
        except ReplicaError:
            return []
        return [
            VersionStatistics(
                int(entry.version),
                entry.inference_stats.success.count,
                entry.inference_stats.fail.count,
                {int(batch.batch_size): int(batch.compute_infer.count) for batch in entry.batch_stats},
            )
            for entry in answer.model_stats
        ]

    @cached_property
    def _client(self) -> InferenceServerClient:
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(self._address, channel_args=_CHANNEL)

    def _unavailable(self, sentence: str) -> ControlRefused | ReplicaUnavailable:
        restricted = _RESTRICTED.search(sentence)
        if restricted is None:
            return ReplicaUnavailable(f"{self.name} ({self._address})", sentence)
        sent = next((name.removeprefix(_KEY_HEADER) for name in self._headers), None)
        return ControlRefused(f"{self.name} ({self._address})", restricted[1].removeprefix(_KEY_HEADER), sent)

    @contextmanager
    def _any_error_means_unavailable(self) -> Iterator[None]:
        try:
            yield
        except ReplicaError as error:
            raise ReplicaUnavailable(self.name, str(error)) from None

    def _call(self, call: Callable[..., T], timeout_s: float | None = None) -> T:
        from tritonclient.utils import InferenceServerException

        deadline_s = timeout_s or self._timeout_s
        try:
            return call(self._client, headers=self._headers, client_timeout=deadline_s)
        except InferenceServerException as error:
            sentence = " ".join((error.message() or str(error)).split())
            if error.status() == "StatusCode.UNAVAILABLE":
                raise self._unavailable(sentence) from None
            if error.status() in {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}:
                message = f"no answer within {deadline_s:g} s"
                raise _DeadlineExceeded(message) from None
            raise ReplicaError(sentence) from None

    def infer_together(
        self, model: str, requests: Sequence[Arrays], version: int, timeout_s: float
    ) -> list[Arrays | ReplicaError]:
        """
        Send requests of a batching model at once and wait for all; returns each one's outputs, or its error.

        Raises ReplicaUnavailable when the server is gone, or did not answer one of them in `timeout_s`.
        """
        answers: list[Any] = [None] * len(requests)
        arrived = threading.Semaphore(0)

        def answered(place: int, result: Any, error: Any) -> None:
            answers[place] = _arrays(result) if error is None else error
            arrived.release()

        to = {"headers": self._headers, "client_timeout": timeout_s}
        for place, inputs in enumerate(requests):
            tensors = _tensors(inputs, batching=True)
            self._client.async_infer(model, tensors, partial(answered, place), str(version), **to)
        for _ in requests:
            arrived.acquire()  # each call ends by its own deadline
        return [answer if isinstance(answer, dict) else self._refusal(answer, timeout_s) for answer in answers]

    def _refusal(self, error: Any, timeout_s: float) -> ReplicaError:
        sentence = " ".join((error.message() or str(error)).split())
        if any(words in sentence for words in _QUEUE_REFUSES):
            return QueueRefused(sentence)
        if error.status() in {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}:
            raise ReplicaUnavailable(self.name, f"no answer within {timeout_s:g} s")
        if error.status() == "StatusCode.UNAVAILABLE":
            raise self._unavailable(sentence)
        return ReplicaError(sentence)


def _as_json(config: ModelConfig) -> str:
    from google.protobuf import json_format

    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return text


class QueueRefused(ReplicaError):
    """The model's queue was full, or its limit of time was over: the config's own limits, no fault of the model."""


class _DeadlineExceeded(ReplicaError):
    """The call's deadline passed."""


def _tensors(inputs: Arrays, *, batching: bool) -> list[Any]:
    """Return the input tensors of a request; one value a sample goes as [n, 1] to a model that is batched."""
    from tritonclient.grpc import InferInput

    tensors = []
    for name, given in inputs.items():
        array = given.reshape(-1, 1) if given.ndim == 1 and batching else given
        text = array.dtype.kind == "U"
        tensor = InferInput(name, list(array.shape), _BYTES if text else _TRITON_DTYPES[array.dtype.name])
        tensor.set_data_from_numpy(array.astype(object) if text else np.ascontiguousarray(array))
        tensors.append(tensor)
    return tensors


def _arrays(answer: Any) -> Arrays:
    return {output.name: _as_text(answer.as_numpy(output.name)) for output in answer.get_response().outputs}


def _as_text(array: np.ndarray[Any, Any] | None) -> Any:
    """Return text for Triton's bytes, numpy's `U` for its objects; any other array as it is."""
    if array is None or array.dtype != object:
        return array
    return np.array([value.decode(errors="replace") for value in array.ravel()], "U").reshape(array.shape)


def key_header(environment: Environment) -> dict[str, str]:
    """Return the gRPC metadata that opens Triton's restricted calls; empty when they are not restricted."""
    if environment.triton_key is None:
        return {}
    name, _, value = environment.triton_key.get_secret_value().partition("=")
    return {_KEY_HEADER + name.lower(): value}
