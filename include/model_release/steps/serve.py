"""A version onto a fleet, and off it again: what benchmark, deploy and roll_back share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from model_release.build import RECORDED
from model_release.environment import Fleet
from model_release.errors import BadModelConfig, BytesDiffer, ReplicaUnavailable, RouteNotConfirmed
from model_release.repository.manifest import Manifest
from model_release.repository.serving import CONFIG, ServingPrefix, folder_of_part
from model_release.spec import ModelSpec
from model_release.steps.context import Sight, Step, read_frozen_spec
from model_release.triton import config as configs
from model_release.triton import fleet as fleets
from model_release.triton.bundle import Bundle, bundle_of, part_digests

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: What a model's file has to be like, or Triton refuses it.
_OF_FILES = ("backend", "default_model_filename", "input", "output")
_QUIET_S = 0.5
_QUIET_DEADLINE_S = 20


def sealed_bundle(sight: Sight, version: int) -> Bundle:
    """
    Return the sealed configs of a version: the tuned ones if there are any, else the base's. Raises BytesDiffer.

    The manifest says the digest of the model's own config, and that the digests of an ensemble's parts.
    """
    manifest = sight.archive.sealed(version, "tuned") or sight.archive.require(version)
    own = _sealed_config(sight, manifest, "")
    _compare_digest(sight, manifest, "", own, manifest.release_digest)
    parts = {}
    for part, digest in part_digests(own).items():
        parts[part] = _sealed_config(sight, manifest, part)
        _compare_digest(sight, manifest, part, parts[part], digest)
    return Bundle(own, parts)


def sealed_config(sight: Sight, version: int) -> ModelConfig:
    """Return the model's own sealed config, of an ensemble without its parts'. Raises BytesDiffer."""
    return sealed_bundle(sight, version).own


def _sealed_config(sight: Sight, manifest: Manifest, part: str) -> ModelConfig:
    name = folder_of_part(part) + CONFIG
    if name not in manifest.files:
        where = sight.archive.folder(manifest.version, manifest.part) + name
        raise BytesDiffer(where, "nothing", "a sealed config")
    with TemporaryDirectory() as folder:
        return configs.parse(sight.archive.read_sealed(manifest, name, Path(folder) / CONFIG).read_text())


def _compare_digest(sight: Sight, manifest: Manifest, part: str, config: ModelConfig, asked: str) -> None:
    got = configs.release_digest(config)
    if got != asked:
        key = sight.archive.key_in(manifest, folder_of_part(part) + CONFIG)
        raise BytesDiffer(key, got, asked)


def spec_of(sight: Sight, base: Manifest) -> ModelSpec:
    """Return the spec that a version was made of; an older one may have other outputs and tolerances."""
    return read_frozen_spec(sight.store, sight.model, base.spec_digest)


def recorded_samples(sight: Sight, base: Manifest) -> dict[str, np.ndarray[Any, Any]]:
    """Return a version's recorded samples: `input__<name>` and `output__<name>`, batch axis first."""
    with TemporaryDirectory() as folder:
        path = sight.archive.read_sealed(base, RECORDED, Path(folder) / RECORDED)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def prove(sight: Sight, fleet: str, base: Manifest, config: ModelConfig | Bundle) -> list[dict[str, Any]]:
    """Prove on each replica's own port that it serves exactly this version and config, and answers rightly."""
    return prover(sight, base, config)(sight.pair.fleet(fleet))


def prover(
    sight: Sight, base: Manifest, config: ModelConfig | Bundle, samples: int | None = None
) -> Callable[[Fleet], list[dict[str, Any]]]:
    """Return the proof of a version by its recorded samples, or by the first few, for any number of fleets."""
    spec = spec_of(sight, base)
    recorded = {name: array[:samples] for name, array in recorded_samples(sight, base).items()}
    tolerances = {tensor.name: spec.tolerance(tensor.name) for tensor in spec.outputs}

    def proved(fleet: Fleet) -> list[dict[str, Any]]:
        return fleets.prove(fleet, sight.model, base.version, config, recorded, tolerances, sight.environment)

    return proved


def load(step: Step, fleet: str, base: Manifest, config: ModelConfig | Bundle) -> list[dict[str, Any]]:
    """
    Make a version whose files lie in the prefix the served one: config.pbtxt, load everywhere, prove.

    Of an ensemble the parts' configs come first, and name the version before as well until the ensemble's own has left
    it: a newborn finds the old whole or the new one, at any instant. Where a part's tensors change it may find none.
    """
    bundle, prefix = bundle_of(config), step.prefix(fleet)
    texts = bundle.texts(step.claim.epoch)
    before = served_versions(prefix)
    both = {part: _with_those_before(bundle.parts[part], before, prefix.part(part)) for part in bundle.parts}
    for part, text in texts.items():
        wide = both.get(part)
        prefix.part(part).write_config(configs.render(wide, step.claim.epoch) if wide else text, step.check)
    _load_everywhere(step, fleet, base, bundle)
    if any(both.values()):
        for part in [part for part, wide in both.items() if wide]:
            prefix.part(part).write_config(texts[part], step.check)
        _load_everywhere(step, fleet, base, bundle)
    return prove(step, fleet, base, bundle)


def _load_everywhere(step: Step, fleet: str, base: Manifest, bundle: Bundle) -> None:
    fleets.load_everywhere(
        step.pair.fleet(fleet),
        step.release.model,
        base.version,
        step.environment,
        check=step.check,
        parts=bundle.part_models,
    )


def served_versions(prefix: ServingPrefix) -> list[int]:
    """Return the versions that a newborn would load from a folder of a serving prefix; none of what it cannot read."""
    config = _config_in(prefix)
    return [] if config is None else list(config.version_policy.specific.versions)


def _config_in(prefix: ServingPrefix) -> ModelConfig | None:
    text = prefix.config()
    try:
        return None if text is None else configs.parse(text)
    except BadModelConfig:
        return None


def _with_those_before(config: ModelConfig, before: list[int], prefix: ServingPrefix) -> ModelConfig | None:
    """
    Return a part's config that also names the versions that its ensemble serves still.

    None if it has none there, or if theirs says other tensors or another backend: under one config Triton would refuse
    either, and the new version with it. They then go before the ensemble has left them.
    """
    present = _config_in(prefix)
    [version] = config.version_policy.specific.versions
    kept = [other for other in served_versions(prefix) if other in before and other != version]
    return configs.naming(config, [*kept, version]) if kept and present and _alike(config, present) else None


def _alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two configs ask the same of a version's files."""
    return all(getattr(one, said) == getattr(other, said) for said in _OF_FILES)


def put_on(step: Step, fleet: str, base: Manifest, config: ModelConfig | Bundle) -> list[dict[str, Any]]:
    """
    Bring a sealed version onto a fleet and prove it there; the version before is then deleted from the prefix.

    Raises SignatureMissing, SignatureInvalid, BytesDiffer before anything is touched, if signatures are required.
    """
    step.signatures.require(base)
    prefix, bundle = step.prefix(fleet), bundle_of(config)
    for part, each in bundle.by_part.items():
        prefix.part(part).reserve(configs.render(configs.disabled(each), step.claim.epoch), step.check)
    prefix.place(step.archive, base, step.check)
    proofs = load(step, fleet, base, bundle)
    prefix.keep_only(base.version, step.check)
    return proofs


def disable(step: Step, fleet: str) -> None:
    """Have a newborn skip the model, unless it does already: an ensemble first, then its parts."""
    prefix = step.prefix(fleet)
    for folder in (prefix, *prefix.parts().values()):
        text = folder.config()
        if text is not None and served_versions(folder):
            disabled = configs.disabled(configs.parse(text))
            folder.write_config(configs.render(disabled, step.claim.epoch), step.check)


def take_off(step: Step, fleet: str) -> list[str]:
    """
    Remove the model from a fleet: a config that newborns skip, unload, prove not READY, delete.

    Returns sentences about replicas that did not answer; they find the model gone when they start again.
    """
    disable(step, fleet)
    problems: list[str] = []
    try:
        fleets.unload_everywhere(step.pair.fleet(fleet), step.model, step.environment, check=step.check)
    except ReplicaUnavailable as error:
        problems.append(str(error))
    step.prefix(fleet).delete(step.check)
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
