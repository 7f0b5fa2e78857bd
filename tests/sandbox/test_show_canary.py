"""A small case of `make show-canary`: one scene, on the session's sandbox."""

from __future__ import annotations

import uuid

from tests.sandbox.canary.relay import Relay
from tests.sandbox.canary.scenes import play, scenes, stage_of
from tests.sandbox.conftest import Sandbox


def test_a_canary_with_a_few_errors_is_rolled_back_and_no_client_sees_one(trained: Sandbox) -> None:
    [scene] = [scene for scene in scenes() if scene.key == "b"]
    relay = Relay(trained.environment.router.admin[0])
    try:
        with stage_of(trained, f"digits_{uuid.uuid4().hex[:8]}", relay) as model:
            told = play(scene, 0, trained, model, relay)
    finally:
        relay.close()
    assert told.right, told
    assert told.canary_errors > 0
    assert told.weight_0_after_s is not None
