"""What the models of one server may not do to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def clashes(config: ModelConfig, others: Mapping[str, ModelConfig]) -> list[str]:
    """
    Say which resources of a rate limiter are shared in one config, and of a device in another; `others` by where.

    Triton 2.51 takes a resource, by its name, for one of the two from its first load until it is started again, also
    when that model is long unloaded. It refuses a load that takes it for the other, and from then on every load of any
    model: seen with the real server. Bench refuses it only if it had the other before.
    """
    own = _resources(config)
    found = []
    for where, other in others.items():
        theirs = _resources(other)
        for name in sorted(name for name in own if name in theirs and own[name] != theirs[name]):
            here, there = ("shared", "of a device") if own[name] else ("of a device", "shared")
            found.append(
                f"rate_limiter.resources: {name!r} is {here}, and {there} in {where}; a server that gets both refuses "
                "every load of any model until it is started again. Give it another name, or the same `shared`"
            )
    return found


def _resources(config: ModelConfig) -> dict[str, bool]:
    """Return whether each resource is one for the whole server."""
    return {
        resource.name: bool(getattr(resource, "global"))
        for group in config.instance_group
        for resource in group.rate_limiter.resources
    }
