"""
Served parity: the answers of a real Triton are the recorded ones, for a request alone and in batches with others.

Each answer is compared with the recorded one of exactly its samples, so a batch whose rows went to the wrong requests
is found. That Triton did batch is read from its own statistics: fewer executions than requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from model_release.environment import Environment, Replica
from model_release.errors import ProofFailed, ReplicaUnavailable, ServedParityFailed
from model_release.spec import Tolerance
from model_release.triton.bundle import Bundle, bundle_of
from model_release.triton.fleet import INPUT, OUTPUT, as_numbers
from model_release.triton.replica import Arrays, QueueRefused, ReplicaClient, ReplicaError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

BUDGET_S = 10.0
"""How long it takes at most, but for the one burst that is under way."""

_BURSTS = 4
#: Requests at once: the first two are always sent, the others while no batch was formed.
_LEVELS = (8, 32, 64, 128)
_ALWAYS = 2
_SIZES = (1, 2, 1, 3, 1, 5)
_COUNTED_S = 2.0
_POLL_S = 0.05
#: Elements of an answer that tell two samples apart.
_LOOKED_AT = 4096


@dataclass
class Served:
    """
    What was sent, how Triton batched it, and how far the answers were off.

    `batches` is how often a batch of that many samples was executed while requests were sent at once. `batched` is
    True only when its counts show that one execution answered several requests; else `reason` says why not.
    `worst_of_tolerance` is the worst difference as a part of what was allowed for it. `told_apart` is how many of the
    `recorded` samples have an answer of their own: of the others a mix-up would not be seen.
    """

    recorded: int
    told_apart: int
    samples: int = 0
    requests: int = 0
    refused_by_queue: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    batched: bool = False
    reason: str = ""
    worst_abs: float = 0.0
    worst_of_tolerance: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        sizes = {str(size): count for size, count in sorted(self.batches.items())}
        return {**self.__dict__, "batches": sizes, "seconds": round(self.seconds, 2)}


def prove_served(
    replica: Replica,
    version: int,
    config: ModelConfig | Bundle,
    recorded: Arrays,
    tolerances: Mapping[str, Tolerance],
    environment: Environment,
) -> Served:
    """
    Ask a replica without traffic for the recorded samples, one by one, and then many requests at once.

    `recorded` holds arrays `input__<name>` and `output__<name>`, batch axis first. A model that is served without
    batching is asked one by one alone. Raises ServedParityFailed for a wrong answer, an error, or a server that is
    gone.
    """
    began, bundle = time.monotonic(), bundle_of(config)
    with ReplicaClient(replica, environment) as client:
        proof = _Proof(client, version, bundle, recorded, tolerances, began + BUDGET_S)
        try:
            why_apart = _no_batching(bundle.batched)
            before = {} if why_apart else proof.executed()
            alone_s = proof.ask_alone()
            proof.served.reason = why_apart or proof.ask_together(before, alone_s, environment.call_timeout_s)
        except ReplicaUnavailable as error:
            why = f"it answered before, and did not after {proof.served.requests} requests: {error}"
            raise ServedParityFailed(client.name, bundle.own.name, version, why) from None
    proof.served.seconds = time.monotonic() - began
    return proof.served


def _no_batching(config: ModelConfig) -> str:
    """Return why no two requests can meet in a batch, or an empty string."""
    if config.max_batch_size == 0:
        return "it is served without batching"
    if not config.HasField("dynamic_batching"):
        return "its config has no dynamic_batching"
    return "its max_batch_size is 1" if config.max_batch_size == 1 else ""


class _Proof:
    """One proof while it runs."""

    def __init__(
        self,
        client: ReplicaClient,
        version: int,
        bundle: Bundle,
        recorded: Arrays,
        tolerances: Mapping[str, Tolerance],
        until: float,
    ) -> None:
        config = bundle.own
        self._client, self._version, self._config, self._batched = client, version, config, bundle.batched
        self._inputs = {entry.name: recorded[INPUT + entry.name] for entry in config.input}
        self._expected = {entry.name: recorded[OUTPUT + entry.name] for entry in config.output}
        self._tolerances, self._until = tolerances, until
        self._count = len(next(iter(self._inputs.values())))
        self.served = Served(self._count, self._told_apart())

    def executed(self) -> dict[int, int]:
        """Return how often a batch of that many samples was executed since the version was loaded."""
        found = [each for each in self._client.statistics(self._batched.name) if each.version == self._version]
        return dict(found[0].batch_sizes) if found else {}

    def ask_alone(self) -> float:
        """Ask for each sample by itself, as time allows; returns the seconds of the fastest answer."""
        fastest_s = float("inf")
        batching, half = self._config.max_batch_size > 0, time.monotonic() + BUDGET_S / 2
        for sample in range(self._count):
            rows = np.array([sample])
            began = time.monotonic()
            try:
                answer = self._client.infer(self._config.name, self._asked(rows), self._version, batching=batching)
            except ProofFailed as error:
                raise self._failed(f"asked for one sample, {error}") from None
            fastest_s = min(fastest_s, time.monotonic() - began)
            self._compare(rows, answer, "alone")
            if time.monotonic() > half:
                break
        return fastest_s

    def ask_together(self, before_alone: dict[int, int], alone_s: float, timeout_s: float) -> str:
        """
        Send bursts of requests, more at once until batches form; returns why none did, or an empty string.

        `before_alone` are the executions before any was asked alone.
        """
        # Triton counts an execution after its answer is sent; what it counts later would be taken for a burst's.
        self._formed(before_alone, self.served.samples)
        queue = self._batched.dynamic_batching.default_queue_policy.max_queue_size or _LEVELS[-1]
        for place, level in enumerate(_LEVELS):
            before, sent = self.executed(), (self.served.requests, self.served.samples)
            for burst in range(_BURSTS):
                left_s = self._until - time.monotonic()
                if left_s <= 0 and (burst or place):
                    break
                at_once = max(2, min(level, queue, int(left_s / max(alone_s, 1e-6))))
                self._burst(list(self._rows(at_once, mixed=bool(burst % 2), offset=burst)), timeout_s * at_once)
            requests, samples = self.served.requests - sent[0], self.served.samples - sent[1]
            formed = self._formed(before, samples)
            if formed is None:
                return "its statistics do not count the samples that it answered"
            for size, count in formed.items():
                self.served.batches[size] = self.served.batches.get(size, 0) + count
            self.served.batched |= sum(formed.values()) < requests
            over = time.monotonic() > self._until
            if over or (self.served.batched and place + 1 >= _ALWAYS):
                break
        if self.served.batched:
            return ""
        return f"up to {min(level, queue)} requests at once, and it executed each by itself"

    def _rows(self, requests: int, *, mixed: bool, offset: int) -> Iterator[np.ndarray[Any, Any]]:
        """Return the samples of each request: one each, or several of them, all round the recorded ones."""
        most, first = min(self._config.max_batch_size, self._count), offset
        sizes = (*_SIZES, most) if mixed else (1,)
        for number in range(requests):
            size = min(sizes[number % len(sizes)], most)
            yield np.arange(first, first + size) % self._count
            first += size

    def _burst(self, burst: list[np.ndarray[Any, Any]], timeout_s: float) -> None:
        asked = [self._asked(rows) for rows in burst]
        answers = self._client.infer_together(self._config.name, asked, self._version, timeout_s)
        for rows, answer in zip(burst, answers, strict=True):
            if isinstance(answer, QueueRefused):
                self.served.refused_by_queue += 1
            elif isinstance(answer, ReplicaError):
                raise self._failed(f"of {len(burst)} requests at once, one was answered with: {answer}")
            else:
                self._compare(rows, answer, f"among {len(burst)} requests at once")

    def _asked(self, rows: np.ndarray[Any, Any]) -> Arrays:
        return {name: array[rows] for name, array in self._inputs.items()}

    def _compare(self, rows: np.ndarray[Any, Any], answer: Arrays, how: str) -> None:
        self.served.requests += 1
        self.served.samples += len(rows)
        for name, recorded in self._expected.items():
            expected, got = recorded[rows], answer.get(name)
            if got is None or got.size != expected.size:
                shape = None if got is None else list(got.shape)
                raise self._failed(f"{how}, output {name!r} has shape {shape}, recorded {list(expected.shape)}")
            got = got.reshape(expected.shape)
            differs, allowed = self._off(name, got, expected)
            part = np.divide(differs, allowed, out=np.where(differs > 0, np.inf, 0.0), where=allowed > 0)
            worst = float(part.max(initial=0))
            if worst > 1:
                wrong = int(np.argmax(part.reshape(len(rows), -1).max(axis=1) > 1))
                raise self._failed(self._of_wrong(name, rows, wrong, got, float(differs.max()), how))
            self.served.worst_abs = max(self.served.worst_abs, float(differs.max(initial=0)))
            self.served.worst_of_tolerance = max(self.served.worst_of_tolerance, worst)

    def _off(self, output: str, got: Any, expected: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return how far each number is off, and how far it may be; what is no number has to be the same."""
        theirs, ours = as_numbers(got, expected)
        tolerance = self._tolerances[output]
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        differs = np.where(same, 0.0, np.nan_to_num(np.abs(theirs - ours), nan=np.inf, posinf=np.inf))
        return differs, np.nan_to_num(tolerance.atol + tolerance.rtol * np.abs(ours), nan=0.0, posinf=0.0)

    def _of_wrong(self, output: str, rows: np.ndarray[Any, Any], wrong: int, got: Any, differs: float, how: str) -> str:
        """Say what is wrong with an answer, and whose it is."""
        own = int(rows[wrong])
        others = [other for other in range(self._count) if other != own and self._alike(output, got[wrong], other)]
        said = f"{how}, output {output!r} of sample {own} differs by {differs:.3g} from the recorded answer"
        if how == "alone":
            return said
        said += ", and alone it did not"
        if others:
            return f"{said}: it is the answer of sample {others[0]}, so rows of a batch went to the wrong request"
        return f"{said}. If its answers depend on the batch, serve it with max_batch_size: 0"

    def _alike(self, output: str, got: Any, sample: int) -> bool:
        first, second = np.ravel(self._expected[output][sample])[:_LOOKED_AT], np.ravel(got)[:_LOOKED_AT]
        differs, allowed = self._off(output, second, first)
        return bool((differs <= allowed).all())

    def _told_apart(self) -> int:
        """Count the samples that no other sample's answer could be taken for."""

        def alone(sample: int) -> bool:
            return not any(
                all(self._alike(name, answers[sample], other) for name, answers in self._expected.items())
                for other in range(self._count)
                if other != sample
            )

        return sum(alone(sample) for sample in range(self._count))

    def _formed(self, before: dict[int, int], samples: int) -> dict[int, int] | None:
        """Return the executions since, once they hold all samples that were answered; None when they never do."""
        deadline = time.monotonic() + _COUNTED_S
        while True:
            now = self.executed()
            formed = {size: count - before.get(size, 0) for size, count in now.items()}
            formed = {size: count for size, count in formed.items() if count}
            if sum(size * count for size, count in formed.items()) == samples:
                return formed
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)

    def _failed(self, why: str) -> ServedParityFailed:
        return ServedParityFailed(self._client.name, self._config.name, self._version, why)
