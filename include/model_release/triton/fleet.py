"""
A fleet: the same version on every replica, proved on each replica's own port.

A replica's answer to a load proves nothing, so a proof looks at the index, at the served config and at an inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from model_release.environment import Environment, Fleet, Replica
from model_release.errors import LoadFailed, ProofFailed, ReplicaUnavailable
from model_release.spec import Tolerance
from model_release.triton.batches import load_batches
from model_release.triton.bundle import Bundle, bundle_of
from model_release.triton.compare import differences
from model_release.triton.config import RELEASE_DIGEST
from model_release.triton.replica import Arrays, IndexEntry, ReplicaClient, ReplicaError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

INPUT, OUTPUT = "input__", "output__"
READY = "READY"
#: States that pass by themselves.
_SETTLING = frozenset({"LOADING", "UNLOADING"})
_POLL_S = 0.1
_SHOWN_DIFFERENCES = 3


def load_everywhere(
    fleet: Fleet,
    model: str,
    version: int,
    environment: Environment,
    check: Callable[[], None],
    parts: Sequence[str] = (),
) -> None:
    """
    Load the version that the serving prefix names, `load_batch` replicas at once; `check` is called before each
    batch.

    `parts` are the Triton models of an ensemble's parts, which each replica loads first. Each load has
    `load_timeout_s`. Stops after the first batch with a replica that does not load: raises LoadFailed or
    ReplicaUnavailable, naming the first such.
    """
    for batch in load_batches(fleet, model, environment):
        check()
        if len(batch) == 1:  # in this thread: whoever ends it need not wait for the load
            _load(batch[0], [*parts, model], version, environment)
            continue
        with ThreadPoolExecutor(len(batch), thread_name_prefix="load") as pool:
            loads = [pool.submit(_load, replica, [*parts, model], version, environment) for replica in batch]
        for load in loads:
            load.result()


def prove(
    fleet: Fleet,
    model: str,
    version: int,
    config: ModelConfig | Bundle,
    recorded: Arrays,
    tolerances: Mapping[str, Tolerance],
    environment: Environment,
) -> list[dict[str, Any]]:
    """
    Prove on each replica's own port that it serves exactly this version with exactly this config, rightly.

    Of an ensemble the version and config of each part are proved too, and the answers are those of the whole.

    `recorded` holds arrays `input__<name>` and `output__<name>`, batch axis first; an answer is right when
    within its output's tolerance of the recorded one. Returns one dict a replica, `samples` is how many were sent.
    Raises ProofFailed or ReplicaUnavailable, naming the replica.
    """
    bundle = bundle_of(config)
    return [
        _prove_replica(ReplicaClient(replica, environment), model, version, bundle, recorded, tolerances, environment)
        for replica in fleet.replicas
    ]


def unload_everywhere(fleet: Fleet, model: str, environment: Environment, check: Callable[[], None]) -> None:
    """
    Unload the model, an ensemble with its parts, from every replica that answers; prove that no version is READY there.

    Raises ProofFailed when one is, and ReplicaUnavailable, after the others were unloaded, when one did not answer.
    """
    unanswered: list[ReplicaUnavailable] = []
    for replica in fleet.replicas:
        with ReplicaClient(replica, environment) as client:
            check()
            try:
                names = client.triton_models(model)
                for name in names:  # an ensemble before its parts
                    client.unload(name)
                for name in names:
                    _prove_gone(client, name, environment)
            except ReplicaUnavailable as error:
                unanswered.append(error)
    if unanswered:
        raise unanswered[0]


def request_counts(fleet: Fleet, model: str, environment: Environment) -> dict[str, int]:
    """
    Return how many requests of the model each replica has answered, well or badly, since its versions were loaded.

    Raises ReplicaUnavailable.
    """
    counts = {}
    for replica in fleet.replicas:
        with ReplicaClient(replica, environment) as client:
            counts[client.name] = sum(entry.succeeded + entry.failed for entry in client.statistics(model))
    return counts


def loaded_versions(replica: Replica, model: str, environment: Environment) -> list[int]:
    """
    Return the versions of the model, or of its parts, that one replica serves. Raises ReplicaUnavailable.

    Also those whose folders are gone, which no repository index lists.
    """
    with ReplicaClient(replica, environment) as client:
        counted = [each for name in client.triton_models(model) for each in client.statistics(name)]
        return sorted({each.version for each in counted})


def _load(replica: Replica, models: Sequence[str], version: int, environment: Environment) -> None:
    with ReplicaClient(replica, environment) as client:
        for model in models:
            client.load(model, environment.load_timeout_s, version=version)
            entries = settled(client, model, environment.call_timeout_s)
            ready = _ready_versions(entries)
            # A part has the version before beside it until the ensemble has left that; the proof allows none.
            if ready != [version] and (model == models[-1] or version not in ready):
                raise LoadFailed(client.name, model, version, f"it answered that it did, but {_shown(entries)}")


def _prove_replica(
    client: ReplicaClient,
    model: str,
    version: int,
    bundle: Bundle,
    recorded: Arrays,
    tolerances: Mapping[str, Tolerance],
    environment: Environment,
) -> dict[str, Any]:
    config = bundle.own
    with client:
        for each in bundle.by_part.values():
            _prove_config(client, each, version, environment)
        began = time.monotonic()
        worst, samples = _prove_answers(client, model, version, config, recorded, tolerances)
        return {
            "replica": client.name,
            "version": version,
            "release_digest": config.parameters[RELEASE_DIGEST].string_value,
            "samples": samples,
            "worst_abs": worst,
            "inference_ms": round((time.monotonic() - began) * 1000, 3),
        }


def _prove_config(client: ReplicaClient, config: ModelConfig, version: int, environment: Environment) -> None:
    """Raise ProofFailed unless a Triton model has exactly this version, with exactly this config."""
    model = config.name
    entries = settled(client, model, environment.call_timeout_s)
    if _ready_versions(entries) != [version]:
        raise ProofFailed(client.name, model, version, _shown(entries))
    try:
        served = client.config(model)
    except ReplicaError as error:
        raise ProofFailed(client.name, model, version, f"it does not tell its config: {error}") from None
    found = differences(config, served)
    if found:
        more = f" and {len(found) - _SHOWN_DIFFERENCES} more" if len(found) > _SHOWN_DIFFERENCES else ""
        why = f"its config differs: {'; '.join(found[:_SHOWN_DIFFERENCES])}{more}"
        raise ProofFailed(client.name, model, version, why)


def _prove_answers(
    client: ReplicaClient,
    model: str,
    version: int,
    config: ModelConfig,
    recorded: Arrays,
    tolerances: Mapping[str, Tolerance],
) -> tuple[float, int]:
    """
    Return the worst absolute difference of the recorded samples, and how many were sent. Raises ProofFailed.

    They go as one batch, or, where the model is served without batching, as they were recorded: each by itself.
    """
    batching, count = config.max_batch_size > 0, len(recorded[INPUT + config.input[0].name])
    size, sent = (min(count, config.max_batch_size),) * 2 if batching else (1, count)
    worst = 0.0
    for start in range(0, sent, size):
        rows = slice(start, start + size)
        worst = max(worst, _prove_batch(client, model, version, config, recorded, rows, tolerances))
    return worst, sent


def _prove_batch(
    client: ReplicaClient,
    model: str,
    version: int,
    config: ModelConfig,
    recorded: Arrays,
    rows: slice,
    tolerances: Mapping[str, Tolerance],
) -> float:
    inputs = {entry.name: recorded[INPUT + entry.name][rows] for entry in config.input}
    answers = client.infer(model, inputs, version, batching=config.max_batch_size > 0)
    worst = 0.0
    for entry in config.output:
        expected, got = recorded[OUTPUT + entry.name][rows], answers.get(entry.name)
        if got is None or got.size != expected.size:
            shape = None if got is None else list(got.shape)
            why = f"output {entry.name!r} of a recorded sample has shape {shape}, recorded {list(expected.shape)}"
            raise ProofFailed(client.name, model, version, why)
        worst = max(
            worst, _prove_close(client.name, model, version, entry.name, (got, expected), tolerances[entry.name])
        )
    return worst


def _prove_close(
    replica: str,
    model: str,
    version: int,
    output: str,
    pair: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    tolerance: Tolerance,
) -> float:
    got, expected = as_numbers(pair[0].reshape(pair[1].shape), pair[1])
    wrong = ~np.isclose(got, expected, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)
    difference = np.nan_to_num(np.abs(got - expected), nan=0.0 if not wrong.any() else np.inf, posinf=np.inf)
    worst = float(difference.max(initial=0.0))
    if wrong.any():
        raise ProofFailed(
            replica,
            model,
            version,
            f"output {output!r} of recorded samples differs by {worst:.3g} ({wrong.sum()} of {wrong.size} values), "
            f"allowed {tolerance}",
        )
    return worst


def as_numbers(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return both as float64; of texts 1 where one is another than was expected, against 0."""
    if expected.dtype.kind == "U":
        return (got != expected).astype(np.float64), np.zeros(expected.shape)
    return got.astype(np.float64), expected.astype(np.float64)


def _prove_gone(client: ReplicaClient, model: str, environment: Environment) -> None:
    entries = settled(client, model, environment.call_timeout_s)
    still = _ready_versions(entries)
    if still or client.ready(model):
        raise ProofFailed(client.name, model, still[0] if still else 0, f"it was unloaded, but {_shown(entries)}")


def settled(client: ReplicaClient, model: str, timeout_s: float) -> list[IndexEntry]:
    """Return the model's index entries once none is in a passing state, or as they are at the deadline."""
    deadline = time.monotonic() + timeout_s
    entries = client.index(model)
    while any(entry.state in _SETTLING for entry in entries) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        entries = client.index(model)
    return entries


def _ready_versions(entries: list[IndexEntry]) -> list[int]:
    return [entry.version for entry in entries if entry.state == READY and entry.version is not None]


def _shown(entries: list[IndexEntry]) -> str:
    """Return what an index says, as the end of a sentence."""
    known = [entry for entry in entries if entry.version is not None]
    if not known:
        return "its index has the model, with no version loaded" if entries else "its index does not have the model"
    shown = (f"{e.version} {e.state}" + (f" ({e.reason})" if e.reason else "") for e in known)
    return f"its index says: {', '.join(shown)}"
