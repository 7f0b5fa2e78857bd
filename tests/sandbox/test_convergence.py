"""A canary's replicas through the bake, on real Tritons: the restarted and the new are proved, the known left alone."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import pytest

from model_release.environment import Fleet, Replica
from model_release.triton.convergence import Mark, converge
from model_release.triton.fleet import prove
from model_release.triton.replica import ReplicaClient
from tests.sandbox.triton_parts import (
    MODEL,
    TOLERANCE,
    VERSION,
    Server,
    Tritons,
    emptied,
    load,
    onnx_bytes,
    pair,
    recorded,
    tritons,
)

__all__ = ["emptied", "pair", "tritons"]
pytestmark = pytest.mark.usefixtures("emptied")


class Looks:
    """Looks at a fleet one after another, and notes which replicas had to be proved."""

    def __init__(self, tritons: Tritons, config: Any) -> None:
        # A look has this time in all, also on a busy machine; only a hung replica takes it.
        self.environment = tritons.environment.model_copy(update={"call_timeout_s": 10.0})
        self.config = config
        self.marks: dict[str, Mark] = {}
        self.proved: list[str] = []

    def look(self, *replicas: Replica) -> list[str]:
        self.proved = []
        fleet = Fleet(replicas=list(replicas))
        self.marks, problems = converge(fleet, VERSION, self.config, self.marks, lambda: self._prove, self.environment)
        return problems

    def _prove(self, fleet: Fleet) -> None:
        self.proved += [replica.name for replica in fleet.replicas]
        prove(fleet, MODEL, VERSION, self.config, recorded(), TOLERANCE, self.environment)


def ask(tritons: Tritons, *servers: Server, times: int = 20) -> None:
    for server in servers:
        with ReplicaClient(server.replica, tritons.environment) as client:
            for _ in range(times):
                client.infer(MODEL, {"x": np.ones((1, 4), np.float32)})


def test_the_known_are_not_proved_again_the_restarted_and_the_new_are(
    tritons: Tritons, pair: tuple[Server, Server]
) -> None:
    mortal = tritons.start("mortal-0")
    for server in (pair[0], mortal):
        config = tritons.place(server)
        load(tritons, server)
    looks = Looks(tritons, config)
    ask(tritons, pair[0], mortal)

    assert looks.look(pair[0].replica) == []
    assert looks.proved == ["fleet-0"]
    assert looks.look(pair[0].replica, mortal.replica) == []
    assert looks.proved == ["mortal-0"], "it is new"
    assert looks.look(pair[0].replica, mortal.replica) == []
    assert looks.proved == []

    mortal.kill()
    [problem] = looks.look(pair[0].replica, mortal.replica)
    assert "mortal-0" in problem
    assert set(looks.marks) == {"fleet-0"}

    known = looks.look(pair[0].replica)
    again = tritons.start("mortal-0", mortal.prefix)
    assert known == looks.look(pair[0].replica, again.replica) == []
    assert looks.proved == ["mortal-0"], "it was away"

    ask(tritons, pair[0], again)
    looks.look(pair[0].replica, again.replica)
    again.kill()
    last = tritons.start("mortal-0", mortal.prefix)
    assert looks.look(pair[0].replica, last.replica) == []
    assert looks.proved == ["mortal-0"], "its counts went back, though no look saw it down"
    last.kill()


def test_a_new_replica_with_other_weights_is_not_proved(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0])
    tritons.place(pair[1], model_bytes=onnx_bytes(slope=2.01))
    load(tritons, *pair)
    looks = Looks(tritons, config)

    for _ in range(2):
        [problem] = looks.look(pair[0].replica, pair[1].replica)
        assert "fleet-1 is not proved" in problem
        assert "output 'y' of recorded samples differs" in problem
        assert set(looks.marks) == {"fleet-0"}


def test_an_unloaded_or_changed_replica_is_named(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    config = tritons.place(pair[0])
    load(tritons, pair[0])
    looks = Looks(tritons, config)
    assert looks.look(pair[0].replica) == []

    with ReplicaClient(pair[0].replica, tritons.environment) as client:
        client.unload(MODEL)
    assert "it is not READY there" in looks.look(pair[0].replica)[0]

    tritons.place(pair[0], change=lambda served: setattr(served.dynamic_batching, "max_queue_delay_microseconds", 9))
    load(tritons, pair[0])
    assert "its config differs: dynamic_batching.max_queue_delay_microseconds" in looks.look(pair[0].replica)[0]


def test_a_hung_replica_costs_a_look_its_deadline_and_no_more(tritons: Tritons, pair: tuple[Server, Server]) -> None:
    for server in pair:
        config = tritons.place(server)
    load(tritons, *pair)
    looks = Looks(tritons, config)
    pair[1].process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        [problem] = looks.look(pair[0].replica, pair[1].replica)
        assert time.monotonic() - began < 1.5 * looks.environment.call_timeout_s
    finally:
        pair[1].process.send_signal(signal.SIGCONT)
    assert "fleet-1" in problem
    assert set(looks.marks) == {"fleet-0"}
