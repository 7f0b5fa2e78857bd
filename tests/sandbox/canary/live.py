"""A canary at its stage under a scene's clients: what can be done to it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Thread, Timer
from typing import Any

from model_release.identity import Release
from model_release.traffic import connect
from model_release.traffic.router import ArmCounters
from sandbox.supervisor import Supervisor
from sandbox.triton import faults_file
from tests.sandbox.canary.relay import Relay
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import Model


def suffer(
    sandbox: Sandbox, model: Model, version: int, canary: Mapping[str, Any], stable: Mapping[str, Any] | None = None
) -> None:
    """Let a version, and stable, suffer something from now on; nothing is the end of it."""
    state = model.state
    versions = {version: canary, state.stable.version if state.stable else 0: stable or {}}
    path = faults_file(sandbox.home.triton / "models")
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({f"{model.name}/{number}": fault for number, fault in versions.items()}))
    fresh.replace(path)


@dataclass
class Live:
    """A canary at its stage."""

    sandbox: Sandbox
    model: Model
    release: Release
    relay: Relay
    stack: ExitStack
    """What ends with the scene."""
    pending: list[Thread] = field(default_factory=list)

    @property
    def fleet(self) -> str:
        """The canary's fleet."""
        canary = self.model.state.canary
        assert canary is not None
        return canary.fleet

    def counters(self) -> ArmCounters:
        """What the router has counted of the canary's fleet."""
        return connect(self.model.environment).counters(self.model.name, "default")[self.fleet]

    def suffer(self, canary: Mapping[str, Any], stable: Mapping[str, Any] | None = None) -> None:
        """Let a version of the model suffer something from now on; nothing is the end of it."""
        suffer(self.sandbox, self.model, self.release.version, canary, stable)

    def kill(self, *, every: bool) -> None:
        """End one or all of the canary's replicas; supervisord starts them again."""
        supervisor = Supervisor(self.sandbox.home)
        for replica in self.model.environment.pairs["default"].fleet(self.fleet).replicas[: None if every else 1]:
            pid = supervisor.state(replica.name).pid
            if pid > 0:
                os.kill(pid, signal.SIGKILL)

    def for_a_while(self, seconds: float, end: Callable[[], object]) -> None:
        """End something later on, beside the looks."""
        timer = Timer(seconds, end)
        timer.daemon = True
        timer.start()
        self.pending.append(timer)
