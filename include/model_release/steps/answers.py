"""
Samples that both fleets answer at a look: the golden set for accuracy, recorded requests for disagreement.

They go straight to the replicas, so no client waits and no router counts them. Each is asked once in a release, in an
order that the version draws: what comes first says as much of the whole as what comes last.

A replica that hangs does not keep a look for the whole of the environment's call timeout: every sixteen samples have as
long as a client's request has before stable is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_release.environment import Fleet
from model_release.errors import ProofFailed, ReplicaUnavailable
from model_release.gates.looks import Paired
from model_release.ledger.looks import StageLooks
from model_release.parity import accuracy as scores
from model_release.parity import load_samples
from model_release.parity.files import LABEL
from model_release.spec import AccuracyGate, DisagreementGate, ModelSpec
from model_release.steps.context import Step
from model_release.steps.route import try_timeout_s
from model_release.steps.serve import recorded_samples, spec_of
from model_release.triton.replica import ReplicaClient

Arrays = dict[str, np.ndarray[Any, Any]]
_RECORDED = "input__"
_MOST_KEPT = 16
_SAMPLES_A_TRY = 16
_read: dict[tuple[Any, ...], Any] = {}


@dataclass(frozen=True)
class Asked:
    """The answers of one look by gate, and what kept a gate from them."""

    paired: Mapping[str, Paired]
    troubles: list[str]


def ask(step: Step, looks: StageLooks) -> Asked:
    """Ask both fleets the next samples of each gate that needs them; without a stable there is nothing to compare."""
    gates = [gate for gate in step.spec.canary.gates if isinstance(gate, AccuracyGate | DisagreementGate)]
    if not gates:
        return Asked({}, [])
    state = step.claim.check()
    if state.stable is None or state.canary is None:
        return Asked({}, [])
    fleets = {"canary": step.pair.fleet(state.canary.fleet), "stable": step.pair.fleet(state.stable.fleet)}
    served = {"canary": step.spec, "stable": _spec_of(step, state.stable.version)}
    paired, troubles = {}, []
    for gate in gates:
        samples, start = _samples(step, gate), asked_so_far(looks, gate.name)
        rows = {name: array[start : start + gate.requests_per_look] for name, array in samples.items()}
        if not len(next(iter(rows.values()))):
            continue
        turn = start // gate.requests_per_look
        try:
            answers = {arm: _answers(step, fleets[arm], served[arm], rows, turn) for arm in fleets}
        except (ReplicaUnavailable, ProofFailed) as error:
            troubles.append(f"{gate.name}: {error}")
            continue
        paired[gate.name] = _compared(step.spec, gate, rows, answers)
    return Asked(paired, troubles)


def asked_so_far(looks: StageLooks, gate: str) -> int:
    """Return how many samples a gate has asked in this stage and the ones before, by the looks that were kept."""
    carried = ((looks.carried or {}).get("gates", {}).get(gate) or {}).get("comparisons", [])
    before = [each["paired"] for each in carried if "paired" in each]
    now = [line.get("paired", {}).get(gate, {}) for line in looks.looks]
    return sum(sum(counts.values()) for counts in [*before, *now])


def _compared(spec: ModelSpec, gate: AccuracyGate | DisagreementGate, rows: Arrays, answers: dict[str, Any]) -> Paired:
    own, other = answers["canary"], answers["stable"]
    if isinstance(gate, AccuracyGate):
        right, stable_right = (scores.right_answers(spec, given, rows[LABEL]) for given in (own, other))
        return _paired(right & ~stable_right, stable_right & ~right)
    differ = ~_same(own, other, gate)
    return _paired(np.zeros_like(differ), differ)


def _paired(plus: np.ndarray[Any, Any], minus: np.ndarray[Any, Any]) -> Paired:
    gained, lost = int(plus.sum()), int(minus.sum())
    return Paired(gained, len(plus) - gained - lost, lost)


def _same(own: np.ndarray[Any, Any], other: np.ndarray[Any, Any], gate: DisagreementGate) -> np.ndarray[Any, Any]:
    """Return for each sample [n] whether two answers [n, ...] are the same: by class, or value by value."""
    if gate.compare == "top1" and own.ndim == 2 and own.shape[1] > 1:
        known = ~(np.isnan(own).any(axis=1) | np.isnan(other).any(axis=1)) if own.dtype.kind == "f" else True
        return np.asarray(known & (own.argmax(axis=1) == other.argmax(axis=1)))
    close = np.isclose(own, other, atol=gate.atol, rtol=gate.rtol)
    return np.asarray(close.reshape(len(own), -1).all(axis=1))


def _answers(step: Step, fleet: Fleet, served: ModelSpec, rows: Arrays, turn: int) -> np.ndarray[Any, Any]:
    """Return [n, ...] answers of one replica, the next one at each look."""
    output = scores.output_of(step.spec) if step.spec.accuracy else step.spec.outputs[0].name
    named = {tensor.name for tensor in served.outputs}
    inputs = [tensor.name for tensor in served.inputs if tensor.name in rows]
    size, n = served.serving.max_batch_size or 1, len(next(iter(rows.values())))
    patience_s = try_timeout_s(step.spec) * math.ceil(min(size, n) / _SAMPLES_A_TRY)
    environment = step.environment.model_copy(
        update={"call_timeout_s": min(step.environment.call_timeout_s, patience_s)}
    )
    with ReplicaClient(fleet.replicas[turn % len(fleet.replicas)], environment) as client:
        parts = [
            client.infer(
                step.model,
                {name: rows[name][start : start + size] for name in inputs},
                batching=served.serving.batching,
            )[output if output in named else served.outputs[0].name]
            for start in range(0, n, size)
        ]
    return np.concatenate(parts)


def _samples(step: Step, gate: AccuracyGate | DisagreementGate) -> Arrays:
    """Return a gate's samples in the order of this version, each array's first axis the samples'."""
    labelled = isinstance(gate, AccuracyGate)
    asked = step.spec.accuracy.golden_set if labelled and step.spec.accuracy else None
    uri = asked or (gate.samples if isinstance(gate, DisagreementGate) else None) or step.spec.parity.samples
    version = step.release.version

    def read() -> Arrays:
        if uri is not None:
            samples = load_samples(uri, step.spec, step.environment, with_label=labelled)
        else:
            recorded = recorded_samples(step, step.archive.require(version))
            given = [name for name in recorded if name.startswith(_RECORDED)]
            samples = {name.removeprefix(_RECORDED): recorded[name] for name in given}
        order = np.random.default_rng(version).permutation(len(next(iter(samples.values()))))
        return {name: array[order] for name, array in samples.items()}

    found: Arrays = _once((step.model, version, uri, gate.kind), read)
    return found


def _spec_of(step: Step, version: int) -> ModelSpec:
    found: ModelSpec = _once((step.model, version), lambda: spec_of(step, step.archive.require(version)))
    return found


def _once(key: tuple[Any, ...], read: Callable[[], Any]) -> Any:
    """Read what never changes once in a process, since a look is taken every few seconds."""
    if key not in _read:
        if len(_read) >= _MOST_KEPT:
            _read.clear()
        _read[key] = read()
    return _read[key]
