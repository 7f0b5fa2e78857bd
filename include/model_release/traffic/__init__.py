"""Traffic: which share of a model's requests goes to which fleet, and what came back."""

from __future__ import annotations

from model_release.environment import Environment
from model_release.traffic.router import Router


def connect(environment: Environment) -> Router:
    """Return the router of an environment."""
    from model_release.traffic.envoy import EnvoyRouter

    return EnvoyRouter(environment)
