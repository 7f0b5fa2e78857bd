"""A small spec and an environment that lead nowhere, for tests that need no torch."""

from __future__ import annotations

from typing import Any

from model_release.environment import Environment
from model_release.spec import ModelSpec

REPLICA = {"name": "r", "http": "127.0.0.1:1", "grpc": "127.0.0.1:2", "metrics": "127.0.0.1:3"}
ENVIRONMENT = Environment.model_validate(
    {
        "s3": {"endpoint_url": "http://127.0.0.1:9", "bucket": "models"},
        "pairs": {"default": {fleet: {"replicas": [REPLICA]} for fleet in ("blue", "green", "bench")}},
        "router": {"directory": "/nowhere", "admin": ["127.0.0.1:4"], "http": "127.0.0.1:5"},
    }
)


def spec(**changes: Any) -> ModelSpec:
    """Return a spec of a model with one input x [3] and one output y [2], with changes."""
    values: dict[str, Any] = {
        "name": "toy",
        "source": {"checkpoint": "file:///toy.safetensors", "factory": "example:build"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [2]}],
    }
    return ModelSpec.model_validate({**values, **changes})
