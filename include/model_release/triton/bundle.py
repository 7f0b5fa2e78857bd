"""
The Triton models of one release: for an ensemble its parts and then the model itself, for any other the model alone.

A server loads them in this order, and a version serves only where each of them has that version. The model's own config
names the digest of each part's, so that its release_digest names them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_release.spec import ModelSpec, PythonPart, ordered
from model_release.spec.ensemble import BETWEEN
from model_release.triton import sections
from model_release.triton.config import Tuning, build_config
from model_release.triton.text import RELEASE_DIGEST, release_digest, render

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Before a part's name, in the parameters of the ensemble's config.
PART_DIGEST = f"{RELEASE_DIGEST}."


@dataclass(frozen=True)
class Bundle:
    """The configs of one version, by the Triton models that have them."""

    own: ModelConfig
    parts: Mapping[str, ModelConfig]
    """Of an ensemble, by part; empty for any other model."""

    @property
    def by_part(self) -> dict[str, ModelConfig]:
        """All of them in the order in which a server loads them, the model's own last under an empty name."""
        return {**self.parts, "": self.own}

    @property
    def part_models(self) -> list[str]:
        """The names of the parts' Triton models."""
        return [config.name for config in self.parts.values()]

    @property
    def digest(self) -> str:
        """The release_digest of the whole."""
        return release_digest(self.own)

    @property
    def batched(self) -> ModelConfig:
        """The config of the model whose executions show how requests are batched: an ensemble executes nothing."""
        return next((part for part in self.parts.values() if part.HasField("dynamic_batching")), self.own)

    def texts(self, epoch: int) -> dict[str, str]:
        """Return the text of each config.pbtxt, as `by_part` has them."""
        return {part: render(config, epoch) for part, config in self.by_part.items()}


def bundle_of(config: ModelConfig | Bundle) -> Bundle:
    """Return the bundle of a model that has no parts; a bundle as it is."""
    return config if isinstance(config, Bundle) else Bundle(config, {})


def part_digests(own: ModelConfig) -> dict[str, str]:
    """Return the release_digest of each part, as an ensemble's own config names them, in the order of loading."""
    steps = [owner[1] for step in own.ensemble_scheduling.step if (owner := step.model_name.split(BETWEEN, 1))[1:]]
    return {part: own.parameters[PART_DIGEST + part].string_value for part in dict.fromkeys(steps)}


def build_bundle(spec: ModelSpec, version: int, tuning: Tuning | None = None) -> Bundle:
    """
    Return the configs of one version; `tuning` is by default the specs' own.

    Of an ensemble it is that of every part that is built from a checkpoint; sizes that a part prefers stay its own.
    Raises BadModelConfig, with every problem, for what Triton would refuse or pass over in silence.
    """
    if spec.serving.ensemble is None:
        return Bundle(build_config(spec, version, tuning), {})
    models, scripts = spec.model_parts, spec.python_parts
    parts = {
        name: build_config(models[name], version, tuning and tuning.of_part(models[name]))
        if name in models
        else _of_script(spec, scripts[name], version)
        for name in dict.fromkeys(step.part for step in ordered(spec.serving.ensemble))
    }
    return Bundle(_of_ensemble(spec, version, parts), parts)


def _of_ensemble(spec: ModelSpec, version: int, parts: Mapping[str, ModelConfig]) -> ModelConfig:
    """Return the ensemble's own config. Each step names its part's version, so that versions never mix."""
    from tritonclient.grpc import model_config_pb2 as pb

    ensemble = spec.serving.ensemble
    config = pb.ModelConfig(name=spec.name, platform="ensemble", max_batch_size=spec.serving.max_batch_size)
    config.version_policy.specific.versions.append(version)
    for tensor, entry in [  # one value a sample goes on as [n, 1], since an ensemble cannot reshape; a part does
        *((given, config.input.add()) for given in spec.inputs),
        *((answered, config.output.add()) for answered in spec.outputs),
    ]:
        sections.describe(entry, tensor, spec.serving.batching)
        entry.ClearField("reshape")
    for step in ordered(ensemble) if ensemble else ():
        used = config.ensemble_scheduling.step.add(model_name=parts[step.part].name, model_version=version)
        used.input_map.update(step.inputs)
        used.output_map.update(step.outputs)
    for name, part in parts.items():
        config.parameters[PART_DIGEST + name].string_value = release_digest(part)
    config.parameters[RELEASE_DIGEST].string_value = release_digest(config)
    return config


def _of_script(spec: ModelSpec, part: PythonPart, version: int) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=part.model, backend="python", max_batch_size=spec.serving.max_batch_size)
    config.version_policy.specific.versions.append(version)
    for taken in part.inputs:
        sections.describe(config.input.add(), taken, spec.serving.batching)
    for given in part.outputs:
        sections.describe(config.output.add(), given, spec.serving.batching)
    entry = config.instance_group.add(count=part.instance_group.count)
    entry.kind = pb.ModelInstanceGroup.Kind.Value(sections.KINDS[part.instance_group.kind])
    config.parameters[RELEASE_DIGEST].string_value = release_digest(config)
    return config
