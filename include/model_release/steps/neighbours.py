"""What the servers of a pair serve already: what a release may not do to it."""

from __future__ import annotations

from model_release.environment import FLEETS
from model_release.errors import BadModelConfig
from model_release.identity import Kind, Release
from model_release.repository.serving import ServingPrefix
from model_release.steps.context import Sight
from model_release.steps.serve import sealed_config
from model_release.triton import config as configs
from model_release.triton.neighbours import clashes


def refuse_clash(sight: Sight, release: Release) -> None:
    """
    Hold a release's config against those that the servers of its pair serve already, the model's own before it too.

    Raises BadModelConfig where one server could not have both; VersionNotFound, BytesDiffer for a restore.
    """
    build = release.kind is Kind.BUILD
    config = configs.build_config(sight.spec, release.version) if build else sealed_config(sight, release.version)
    if not any(group.rate_limiter.resources for group in config.instance_group):
        return
    pair = sight.spec.serving.fleet_pair
    others = {}
    for fleet in (*FLEETS, "bench"):
        for model in sight.store.folders(f"serving/{pair}/{fleet}/"):
            text = ServingPrefix(sight.store, pair, fleet, model).config()
            if text is not None:
                others[f"{model} on {fleet}"] = configs.parse(text)
    problems = clashes(config, others)
    if problems:
        raise BadModelConfig(sight.model, problems)
