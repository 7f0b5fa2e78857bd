"""A version onto a fleet, and off it again: what benchmark, deploy and roll_back share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model_release.build import RECORDED
from model_release.environment import Fleet
from model_release.errors import BytesDiffer, ReplicaUnavailable, RouteNotConfirmed
from model_release.repository.manifest import Manifest
from model_release.spec import ModelSpec
from model_release.steps.context import Sight, Step, read_frozen_spec
from model_release.triton import config as configs
from model_release.triton import fleet as fleets

CONFIG = "config.pbtxt"
_QUIET_S = 0.5
_QUIET_DEADLINE_S = 20


def sealed_config(sight: Sight, version: int) -> Any:
    """Return the sealed ModelConfig of a version: the tuned one if there is one, else the base's."""
    manifest = sight.archive.sealed(version, "tuned") or sight.archive.require(version)
    with TemporaryDirectory() as folder:
        text = sight.archive.read_sealed(manifest, CONFIG, Path(folder) / CONFIG).read_text()
    config = configs.parse(text)
    if configs.release_digest(config) != manifest.release_digest:
        key = sight.archive.key(version, manifest.part, CONFIG)
        raise BytesDiffer(key, configs.release_digest(config), manifest.release_digest)
    return config


def spec_of(sight: Sight, base: Manifest) -> ModelSpec:
    """Return the spec that a version was made of; an older one may have other outputs and tolerances."""
    return read_frozen_spec(sight.store, sight.model, base.spec_digest)


def recorded_samples(sight: Sight, base: Manifest) -> dict[str, np.ndarray[Any, Any]]:
    """Return a version's recorded samples: `input__<name>` and `output__<name>`, batch axis first."""
    with TemporaryDirectory() as folder:
        path = sight.archive.read_sealed(base, RECORDED, Path(folder) / RECORDED)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def prove(sight: Sight, fleet: str, base: Manifest, config: Any) -> list[dict[str, Any]]:
    """Prove on each replica's own port that it serves exactly this version and config, and answers rightly."""
    return prover(sight, base, config)(sight.pair.fleet(fleet))


def prover(
    sight: Sight, base: Manifest, config: Any, samples: int | None = None
) -> Callable[[Fleet], list[dict[str, Any]]]:
    """Return the proof of a version by its recorded samples, or by the first few, for any number of fleets."""
    spec = spec_of(sight, base)
    recorded = {name: array[:samples] for name, array in recorded_samples(sight, base).items()}
    tolerances = {tensor.name: spec.tolerance(tensor.name) for tensor in spec.outputs}

    def proved(fleet: Fleet) -> list[dict[str, Any]]:
        return fleets.prove(fleet, sight.model, base.version, config, recorded, tolerances, sight.environment)

    return proved


def load(step: Step, fleet: str, base: Manifest, config: Any) -> list[dict[str, Any]]:
    """Make a version whose files lie in the prefix the served one: config.pbtxt, load everywhere, prove."""
    step.prefix(fleet).write_config(configs.render(config, step.claim.epoch), step.check)
    fleets.load_everywhere(step.pair.fleet(fleet), step.release.model, base.version, step.environment, check=step.check)
    return prove(step, fleet, base, config)


def put_on(step: Step, fleet: str, base: Manifest, config: Any) -> list[dict[str, Any]]:
    """
    Bring a sealed version onto a fleet and prove it there; the version before is then deleted from the prefix.

    Raises SignatureMissing, SignatureInvalid, BytesDiffer before anything is touched, if signatures are required.
    """
    step.signatures.require(base)
    prefix = step.prefix(fleet)
    prefix.reserve(configs.render(configs.disabled(config), step.claim.epoch), step.check)
    prefix.place(step.archive, base, step.check)
    proofs = load(step, fleet, base, config)
    prefix.keep_only(base.version, step.check)
    return proofs


def take_off(step: Step, fleet: str) -> list[str]:
    """
    Remove the model from a fleet: a config that newborns skip, unload, prove not READY, delete.

    Returns sentences about replicas that did not answer; they find the model gone when they start again.
    """
    prefix = step.prefix(fleet)
    text = prefix.config()
    problems: list[str] = []
    if text is not None:
        disabled = configs.disabled(configs.parse(text))
        prefix.write_config(configs.render(disabled, step.claim.epoch), step.check)
    try:
        fleets.unload_everywhere(step.pair.fleet(fleet), step.model, step.environment, check=step.check)
    except ReplicaUnavailable as error:
        problems.append(str(error))
    prefix.delete(step.check)
    return problems


def await_no_requests(step: Step, fleet: str) -> dict[str, int]:
    """
    Confirm at the receivers that weight 0 means no request: every replica's counter stays flat.

    Raises RouteNotConfirmed when requests still arrive, ReplicaUnavailable when a replica cannot be asked.
    """
    replicas, deadline = step.pair.fleet(fleet), time.monotonic() + _QUIET_DEADLINE_S
    before = fleets.request_counts(replicas, step.release.model, step.environment)
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        after = fleets.request_counts(replicas, step.release.model, step.environment)
        if after == before:
            return after
        before = after
    raise RouteNotConfirmed(step.release.model, f"requests still arrive at {fleet} with weight 0: {before}")
