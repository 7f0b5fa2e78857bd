from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from model_release.environment import Environment
from model_release.traffic.envoy import EnvoyRouter, initialise
from sandbox.envoy import write_bootstrap
from tests.sandbox.envoy.parts import Sandbox, Upstreams
from tests.sandbox.ports import free_ports


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    made = Upstreams()
    yield made
    made.stop()


@pytest.fixture
def sandbox(tmp_path: Path, upstreams: Upstreams) -> Iterator[Sandbox]:
    admin, port = islice(free_ports(), 2)
    environment = Environment.model_validate(
        {
            "s3": {"bucket": "models"},
            "pairs": {"default": upstreams.pairs},
            "router": {
                "directory": tmp_path / "envoy",
                "admin": [f"127.0.0.1:{admin}"],
                "http": f"127.0.0.1:{port}",
                "user_log": {"path": tmp_path / "affected-users.log"},
            },
            "call_timeout_s": 3,
        }
    )
    made = Sandbox(environment, tmp_path / "bootstrap.json")
    initialise(environment, "127.0.0.1", port)
    write_bootstrap(made.bootstrap, made.directory, admin)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def router(sandbox: Sandbox) -> EnvoyRouter:
    return EnvoyRouter(sandbox.environment)
