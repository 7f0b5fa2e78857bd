"""The parts of `make show-canary` that need no server: its page, its verdict on a scene, its relay."""

from __future__ import annotations

import socket
import threading

import pytest

from model_release.identity import date_of
from tests.sandbox.canary.page import Split, page
from tests.sandbox.canary.play import VERSION_OF_SPLIT, Told, version_of_scene
from tests.sandbox.canary.relay import Relay
from tests.sandbox.canary.scenes import scenes

SCENES = {scene.key: scene for scene in scenes()}


def told(key: str, verdict: str, client_errors: int = 0) -> Told:
    return Told(SCENES[key], verdict, "because", 12.3, None, 0.8, 1500, 40, 9000, client_errors)


def test_each_scene_has_a_key_and_a_version_of_its_own() -> None:
    assert len(SCENES) == len(scenes())
    versions = [*(version_of_scene(number) for number in range(len(SCENES))), VERSION_OF_SPLIT]
    assert len({date_of(version) for version in versions}) == len(versions)


@pytest.mark.parametrize(
    ("key", "verdict", "client_errors", "right"),
    [
        ("b", "rollback", 0, True),
        ("b", "advance", 0, False),
        ("b", "rollback", 1, False),
        ("f", "rollback", 0, False),
        ("f", "none", 0, True),
        ("h", "none", 300, True),
        ("h", "rollback", 300, False),
        ("a", "none", 0, False),
    ],
)
def test_a_scene_is_right_by_its_verdict_and_by_what_clients_saw(
    key: str, verdict: str, client_errors: int, right: bool
) -> None:
    assert told(key, verdict, client_errors).right is right


def test_the_page_has_a_row_a_scene_and_says_what_is_not_as_it_should_be() -> None:
    made = page([told("b", "rollback"), told("f", "rollback")], [Split(10, 2000, 212)])
    assert "| b | 3 % of its answers are errors | rollback | 12.3 | - | 0.8 | 40 of 1500 | 0 of 9000 |" in made
    assert "rollback (NOT AS IT SHOULD BE)" in made
    assert "| 10 % | 2000 | 10.60 % | +0.9 |" in made


def test_a_relay_carries_while_it_is_open_and_refuses_while_it_is_shut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            for _ in range(2):
                client, _ = server.accept()
                with client:
                    client.sendall(client.recv(16).upper())

        threading.Thread(target=echo, daemon=True).start()
        relay = Relay(f"127.0.0.1:{server.getsockname()[1]}")
        host, _, port = relay.address.partition(":")

        def asked() -> bytes:
            with socket.create_connection((host, int(port)), 5) as client:
                client.sendall(b"well")
                return client.recv(16)

        assert asked() == b"WELL"
        relay.close()
        with pytest.raises(ConnectionError):
            asked()
        relay.open()
        assert asked() == b"WELL"
        relay.close()
