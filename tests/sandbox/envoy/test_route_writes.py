"""Who may write a real Envoy's routes, what is left of a write that did not end, and what confirms one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from model_release.errors import RouteNotConfirmed, RouterUnavailable, RouteTakenOver, RouteUnreadable
from model_release.traffic import connect
from model_release.traffic.envoy import EnvoyRouter, initialise
from model_release.traffic.envoy_admin import EnvoyAdmin
from model_release.traffic.envoy_resources import response
from tests.contracts.router import RouterContract, route
from tests.sandbox.envoy.parts import AWAITED_S, MODEL, Sandbox, eventually, put


class TestEnvoyRouter(RouterContract):
    pass


def test_of_two_writers_racing_the_newer_epoch_always_wins(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL))
    for turn in range(10):
        older, newer = 2 * turn + 2, 2 * turn + 3
        start = threading.Barrier(2)
        refused: list[int] = []

        def write(epoch: int, start: threading.Barrier = start, refused: list[int] = refused) -> None:
            own = EnvoyRouter(sandbox.environment)
            start.wait()
            for percent in (10, 50):
                try:
                    own.set(route(MODEL, epoch, percent))
                except RouteTakenOver:
                    refused.append(epoch)

        threads = [threading.Thread(target=write, args=(epoch,)) for epoch in (older, newer)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert router.read(MODEL) == route(MODEL, newer, 50)
        assert newer not in refused
    router.confirm(route(MODEL, 21, 50), timeout_s=AWAITED_S)


KILLED_BEFORE_RENAME = """
import sys, time
from pathlib import Path
from model_release.environment import load_environment
from model_release.traffic import connect
from tests.contracts.router import route

def stop(self, target):
    if target.name == "rds.json":
        print("written", flush=True)
        time.sleep(60)
    return rename(self, target)

rename, Path.replace = Path.replace, stop
connect(load_environment(Path(sys.argv[1]))).set(route("digits_classifier", 2, 100))
"""


def test_a_writer_killed_before_the_rename_leaves_the_old_route_and_blocks_nobody(
    sandbox: Sandbox, router: EnvoyRouter, tmp_path: Path
) -> None:
    put(router, route(MODEL, 1, 0))
    file = tmp_path / "environment.yaml"
    file.write_text(sandbox.environment.model_dump_json())
    root = Path(__file__).parents[3]
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_BEFORE_RENAME, str(file)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert (sandbox.directory / ".rds.json.new").exists()
    assert router.read(MODEL) == route(MODEL, 1, 0)
    assert sandbox.get().body == "blue"
    put(router, route(MODEL, 2, 100))
    assert sandbox.get().body == "green"
    assert not list(sandbox.directory.glob("*.new")) + list(sandbox.directory.glob(".*.new"))


def test_a_change_of_another_model_does_not_unconfirm(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 3, 10))
    put(router, route("sentiment", 1, 50))
    router.confirm(route(MODEL, 3, 10), timeout_s=1)
    assert sandbox.get("/v2/models/sentiment/ready").status == 200


def test_what_envoy_rejects_is_not_confirmed_and_serves_nobody(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 1, 0))
    path = sandbox.directory / "rds.json"
    table = json.loads(path.read_text())["resources"][0]
    table["virtual_hosts"][0]["routes"][0]["match"] = {"safe_regex": {"regex": "(("}}
    table["metadata"]["filter_metadata"]["model_release"][MODEL] = route(MODEL, 2, 100).to_dict()
    fresh = path.with_suffix(".bad")
    fresh.write_text(json.dumps(response([table])))
    fresh.replace(path)
    admin = EnvoyAdmin(f"127.0.0.1:{sandbox.admin}", AWAITED_S)
    eventually(lambda: admin.update("rds").rejected == 1)  # what it has not read yet is not confirmed either
    with pytest.raises(RouteNotConfirmed, match=r"shows epoch 1 .* instead of epoch 2 .* rejected 1 update"):
        router.confirm(route(MODEL, 2, 100), timeout_s=1)
    assert sandbox.get().body == "blue"


def test_a_route_is_written_and_not_confirmed_while_envoy_is_down(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 1, 100))
    sandbox.stop()
    back = route(MODEL, 2, 0)
    router.set(back)
    with pytest.raises(RouterUnavailable, match=f"127.0.0.1:{sandbox.admin}"):
        router.confirm(back, timeout_s=1)
    with pytest.raises(RouterUnavailable):
        router.counters(MODEL, "default")
    sandbox.start()
    router.confirm(back, timeout_s=AWAITED_S)
    assert sandbox.get().body == "blue"


def test_counters_of_a_restarted_envoy_are_of_another_generation(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL))
    first, again = (router.counters(MODEL, "default")["blue"].generation for _ in range(2))
    sandbox.stop()
    sandbox.start()
    assert first == again != router.counters(MODEL, "default")["blue"].generation


def test_a_first_route_is_not_written_while_envoy_does_not_know_its_clusters(
    sandbox: Sandbox, router: EnvoyRouter
) -> None:
    sandbox.stop()
    with pytest.raises(RouterUnavailable):
        router.set(route(MODEL))
    assert router.read(MODEL) is None


@pytest.mark.parametrize("spoil", [lambda text: text[:-40], lambda text: text.replace('"blue": 90', '"blue": 80')])
def test_a_spoiled_route_file_is_named_and_never_overwritten(
    sandbox: Sandbox, router: EnvoyRouter, spoil: Callable[[str], str]
) -> None:
    put(router, route(MODEL))
    path = sandbox.directory / "rds.json"
    path.write_text(spoil(path.read_text()))
    spoiled = path.read_text()
    for attempt in (
        lambda: router.read(MODEL),
        lambda: router.set(route(MODEL, 2)),
        lambda: initialise(sandbox.environment, "127.0.0.1", sandbox.port),
    ):
        with pytest.raises(RouteUnreadable, match=r"rds\.json"):
            attempt()
    assert path.read_text() == spoiled
    assert sandbox.get().status == 200


def test_starting_again_keeps_the_routes(sandbox: Sandbox, router: EnvoyRouter) -> None:
    put(router, route(MODEL, 5, 100))
    sandbox.stop()
    initialise(sandbox.environment, "127.0.0.1", sandbox.port)
    sandbox.start()
    assert sandbox.get().body == "green"
    assert connect(sandbox.environment).read(MODEL) == route(MODEL, 5, 100)
