"""
Clients: replay real data through Envoy at a set rate, and write down what they saw.

It starts before any model is released and carries on through everything. What it sends is
`s3://training/<model>/live.npz`: the input arrays by name, batch axis first, and `label` where somebody knows it. What
it saw is `<state folder>/traffic/<model>.csv`, one line a response, as `traffic_report` reads it.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import grpc
import numpy as np
import numpy.typing as npt
from botocore.exceptions import BotoCoreError, ClientError
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from sandbox import s3
from sandbox.home import Home, find_home
from sandbox.settings import HOST, Settings, load_settings
from sandbox.traffic_report import Record, Recorder

MAX_SAMPLES = 512
MAX_IN_FLIGHT = 1000
_DATA_POLL_S = 1.0
_REPEAT_S = 60.0
_MAX_PROBLEMS = 1000
_UNRELEASED = "no released version"
_GRPC_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]
_LOG = logging.getLogger("traffic")


@dataclass(frozen=True)
class Sample:
    """One request, ready to be sent by either protocol, and the answer that would be right."""

    grpc_body: bytes
    http_body: bytes
    label: int | None


@dataclass(frozen=True)
class Answer:
    """What a client saw of one request; `outcome` is ok, error, unreleased, or unrouted: no such model yet."""

    outcome: str
    arm: str
    version: str
    prediction: int | None
    problem: str = ""


class Client(Protocol):
    """A way to ask the router."""

    protocol: str

    async def ask(self, sample: Sample) -> Answer:
        """Send one request; it never raises for what the router or a model answers."""


def make_samples(model: str, arrays: dict[str, npt.NDArray[Any]]) -> list[Sample]:
    """Build the requests of an npz once, since building them costs more than sending them."""
    labels = arrays.get("label")
    inputs = {name: array for name, array in arrays.items() if name != "label"}
    rows = min(MAX_SAMPLES, min(len(array) for array in inputs.values()))
    return [
        Sample(
            grpc_body=_grpc_body(model, {name: array[i : i + 1] for name, array in inputs.items()}),
            http_body=http_body({name: array[i : i + 1] for name, array in inputs.items()}),
            label=None if labels is None else int(labels[i]),
        )
        for i in range(rows)
    ]


def _grpc_body(model: str, inputs: dict[str, npt.NDArray[Any]]) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        tensor = request.inputs.add(name=name, datatype=_datatype(array))
        tensor.shape.extend(array.shape)
        request.raw_input_contents.append(_raw(array))
    body: bytes = request.SerializeToString()
    return body


def http_body(inputs: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return a request over HTTP with these inputs by name, batch axis first."""
    tensors = [
        {
            "name": name,
            "datatype": _datatype(array),
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        for name, array in inputs.items()
    ]
    return json.dumps({"inputs": tensors}).encode()


def _datatype(array: npt.NDArray[Any]) -> str:
    return "BYTES" if array.dtype.kind == "U" else str(np_to_triton_dtype(array.dtype))


def _raw(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes of an array; a text's are its length and its UTF-8."""
    if array.dtype.kind == "U":
        return bytes(serialize_byte_tensor(array.astype(object)).item())
    return np.ascontiguousarray(array).tobytes()


class GrpcClient:
    """Inference over gRPC, where the metadata `x-model` says which model is meant."""

    protocol = "grpc"

    def __init__(self, channel: grpc.aio.Channel, model: str, deadline_s: float) -> None:
        self._metadata = (("x-model", model),)
        self._deadline_s = deadline_s
        self._call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    async def ask(self, sample: Sample) -> Answer:
        """Send one request; see Client."""
        call = self._call(sample.grpc_body, metadata=self._metadata, timeout=self._deadline_s)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            headers = dict([*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())])
            details = error.details() or ""
            outcome = _outcome(details, unrouted=error.code() == grpc.StatusCode.UNIMPLEMENTED)
            return _failed(outcome, headers, f"{error.code().name}: {details}")
        headers = dict(await call.initial_metadata())
        output = response.outputs[0]
        values = np.frombuffer(response.raw_output_contents[0], dtype=triton_to_np_dtype(output.datatype))
        return _answered(headers, int(values.argmax()))


class HttpClient:
    """Inference over HTTP, where the path says which model is meant."""

    protocol = "http"

    def __init__(self, session: aiohttp.ClientSession, router: str, model: str) -> None:
        self._session = session
        self._url = f"http://{router}/v2/models/{model}/infer"

    async def ask(self, sample: Sample) -> Answer:
        """Send one request; see Client."""
        try:
            async with self._session.post(self._url, data=sample.http_body) as response:
                text = await response.text()
                headers = {name.lower(): value for name, value in response.headers.items()}
                if response.status != 200:
                    outcome = _outcome(text, unrouted=response.status == 404)
                    return _failed(outcome, headers, f"HTTP {response.status}: {text[:200]}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _failed("error", {}, f"{type(error).__name__}: {error}")
        values = json.loads(text)["outputs"][0]["data"]
        return _answered(headers, int(np.argmax(values)))


def _outcome(text: str, *, unrouted: bool) -> str:
    if _UNRELEASED in text:
        return "unreleased"
    return "unrouted" if unrouted else "error"


def _failed(outcome: str, headers: dict[str, Any], problem: str) -> Answer:
    return Answer(outcome, headers.get("x-model-arm", ""), headers.get("x-model-version", ""), None, problem)


def _answered(headers: dict[str, Any], prediction: int) -> Answer:
    return Answer("ok", headers.get("x-model-arm", ""), headers.get("x-model-version", ""), prediction)


class Replay:
    """The clients of one model."""

    def __init__(self, clients: list[Client], http_share: float, rate_per_s: float, recorder: Recorder) -> None:
        self._grpc, self._http = clients
        self._http_share = http_share
        self._interval_s = 1 / rate_per_s
        self._recorder = recorder
        self._in_flight: set[asyncio.Task[None]] = set()
        self._logged_at: dict[str, float] = {}
        self._was_answered = False

    async def run(self, samples: list[Sample], until: float) -> None:
        """Send until that moment of time.monotonic(); a rate that was missed for a second is not caught up."""
        next_at = time.monotonic()
        http_debt = 0.0
        for sample in itertools.cycle(samples):
            now = time.monotonic()
            if now >= until:
                break
            if next_at > now:
                await asyncio.sleep(next_at - now)
            next_at = max(next_at + self._interval_s, now - 1)
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                continue
            http_debt += self._http_share
            client = self._http if http_debt >= 1 else self._grpc
            http_debt -= http_debt >= 1
            task = asyncio.create_task(self._ask(client, sample))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _ask(self, client: Client, sample: Sample) -> None:
        sent, began = time.time(), time.monotonic()
        try:
            answer = await client.ask(sample)
        except Exception as error:  # an answer that no client understands is an error that a client sees
            answer = _failed("error", {}, f"{type(error).__name__}: {error}")
        self._was_answered = self._was_answered or answer.outcome == "ok"
        outcome = answer.outcome
        if outcome == "unrouted":  # the router knows no such model: in order before its first release, never after
            outcome = "error" if self._was_answered else "unreleased"
        right = None if answer.prediction is None or sample.label is None else answer.prediction == sample.label
        latency_ms = (time.monotonic() - began) * 1000
        self._recorder.write(Record(sent, client.protocol, answer.arm, answer.version, outcome, latency_ms, right))
        if answer.problem:
            self._log(f"{outcome} by {client.protocol} {answer.arm}: {answer.problem}")

    def _log(self, problem: str) -> None:
        """Write down a problem once in a while: at hundreds a second the log would hold nothing else."""
        now = time.monotonic()
        if now - self._logged_at.get(problem, -_REPEAT_S) >= _REPEAT_S and len(self._logged_at) < _MAX_PROBLEMS:
            self._logged_at[problem] = now
            _LOG.info("%s", problem)


async def _await_samples(settings: Settings, home: Home, model: str, until: float) -> list[Sample]:
    """Wait for the data of a model; nothing when the run time ends first."""
    store = s3.client(settings, s3.pipeline_keys(home))
    key = f"{model}/live.npz"
    _LOG.info("waiting for s3://%s/%s", s3.TRAINING, key)
    while time.monotonic() < until:
        try:
            body = await asyncio.to_thread(lambda: store.get_object(Bucket=s3.TRAINING, Key=key)["Body"].read())
            with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
                samples = make_samples(model, dict(arrays))
        except (ClientError, BotoCoreError, OSError):
            pass  # not there yet, or S3 restarts
        except ValueError as error:
            _LOG.warning("s3://%s/%s cannot be replayed: %s", s3.TRAINING, key, error)
        else:
            _LOG.info("replaying %d samples of %s", len(samples), model)
            return samples
        await asyncio.sleep(_DATA_POLL_S)
    return []


async def replay(settings: Settings, home: Home, model: str, rate_per_s: float, until: float) -> None:
    """Wait for a model's data, then send it until the run time is over."""
    samples = await _await_samples(settings, home, model, until)
    if not samples:
        return
    traffic = settings.traffic
    router = f"{HOST}:{settings.ports.router}"
    timeout = aiohttp.ClientTimeout(total=traffic.deadline_s)
    with Recorder(home.traffic / f"{model}.csv") as recorder:
        async with (
            grpc.aio.insecure_channel(router, options=_GRPC_OPTIONS) as channel,
            aiohttp.ClientSession(timeout=timeout, headers={"Content-Type": "application/json"}) as session,
        ):
            clients: list[Client] = [
                GrpcClient(channel, model, traffic.deadline_s),
                HttpClient(session, router, model),
            ]
            await Replay(clients, traffic.http_share, rate_per_s, recorder).run(samples, until)


async def _main() -> None:
    settings, home = load_settings(), find_home()
    home.traffic.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + settings.traffic.run_time_h * 3600
    rates = settings.traffic.rates_per_s
    work = asyncio.gather(*(replay(settings, home, model, rate_per_s, until) for model, rate_per_s in rates.items()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        _LOG.info("asked to stop")
    else:
        _LOG.info("the run time is over")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    asyncio.run(_main())
