"""What the servers of a pair serve already: what a release may not do to it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from model_release.environment import FLEETS
from model_release.errors import BadModelConfig
from model_release.repository.serving import ServingPrefix
from model_release.steps.context import Sight
from model_release.triton import config as configs
from model_release.triton.bundle import Bundle, bundle_of
from model_release.triton.neighbours import clashes

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def refuse_clash(sight: Sight, config: ModelConfig | Bundle) -> None:
    """
    Hold new configs against those that the servers of its pair serve already, the model's own before it too.

    Raises BadModelConfig where one server could not have both.
    """
    asking = [
        each
        for each in bundle_of(config).by_part.values()
        if any(group.rate_limiter.resources for group in each.instance_group)
    ]
    if not asking:
        return
    pair = sight.spec.serving.fleet_pair
    others: dict[str, ModelConfig] = {}
    for fleet in (*FLEETS, "bench"):
        for model in sight.store.folders(f"serving/{pair}/{fleet}/"):
            text = ServingPrefix(sight.store, pair, fleet, model).config()
            with suppress(BadModelConfig):  # no server could have read it either, and the guard looks after it
                others[f"{model} on {fleet}"] = configs.parse(text or "")
    problems = [problem for each in asking for problem in clashes(each, others)]
    if problems:
        raise BadModelConfig(sight.model, problems)
