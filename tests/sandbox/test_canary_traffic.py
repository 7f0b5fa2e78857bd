"""Under real traffic: a canary that is killed, wholly or in part, and a shadow before its first weight."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from model_release.errors import RolledBack
from model_release.ledger.events import Events
from model_release.ledger.state import State
from model_release.repository.store import ObjectStore
from model_release.spec import Shadow
from model_release.steps import benchmark, deploy, export, plan, publish, roll_back, shift, validate, watch
from model_release.steps.ease_back import ready_replicas
from model_release.traffic import connect
from sandbox.supervisor import Supervisor
from tests.sandbox.conftest import Sandbox
from tests.sandbox.releasing import BROKEN, FIRST, SECOND, Clients, Model, await_true
from tests.sandbox.shelf import Shelf


def with_canary(model: Model, **changes: Any) -> None:
    model.spec = model.spec.model_copy(update={"canary": model.spec.canary.model_copy(update=changes)})


def kill(sandbox: Sandbox, *names: str) -> None:
    """End replicas as a machine does that loses its power; supervisord starts them again."""
    supervisor = Supervisor(sandbox.home)
    for name in names:
        await_true(lambda name=name: supervisor.state(name).pid > 0, f"{name} runs")
        os.kill(supervisor.state(name).pid, signal.SIGKILL)


def events(model: Model, what: str) -> list[dict[str, Any]]:
    return [event for event in Events(ObjectStore(model.environment.s3), model.name).read() if event["what"] == what]


def canary_weight(state: State) -> int:
    return int(getattr(state.weights.intent, state.canary.fleet)) if state.canary else 0


@pytest.mark.usefixtures("sealed")
def test_killed_replicas_of_the_canary_cost_no_client_an_answer_and_a_dead_canary_has_no_weight(
    model: Model, trained: Sandbox
) -> None:
    with Clients(model):
        model.release(model.build(FIRST))
    # Only the replicas decide here, not the gates: the errors of a crash may be reason enough to go back.
    dry = [gate.model_copy(update={"dry_run": True}) for gate in model.spec.canary.gates]
    with_canary(model, gates=dry, min_bake_s=120, max_bake_s=240)
    second = model.build(SECOND)
    plan.run(second, model.environment, model.spec)
    for step in (export, validate, publish, benchmark, deploy):
        step.run(second, model.environment)
    canary = model.state.canary
    assert canary is not None
    replicas = [replica.name for replica in model.environment.pairs["default"].fleet(canary.fleet).replicas]

    route = connect(model.environment).read(model.name)
    assert route is not None
    assert {fleet: ready_replicas(route, fleet, model.environment) for fleet in ("blue", "green")} == {
        "blue": 2,
        "green": 2,
    }

    def errors() -> int:
        return connect(model.environment).counters(model.name, "default")[canary.fleet].errors

    with Clients(model, rate_per_s=200) as clients:
        for stage in (10, 50):
            if stage == 10:
                shift.run(second, model.environment, stage)
            else:
                second_stage(model, second)
            assert watch.look(second, model.environment, stage)["action"] is None
            kill(trained, replicas[0])
            before = errors()
            await_true(lambda before=before: errors() > before, "the killed replica is asked and counted")
            kill(trained, *replicas)
            assert ready_replicas(route, canary.fleet, model.environment) < 2
            began = time.monotonic()
            look = watch.look(second, model.environment, stage)
            took_s = time.monotonic() - began
            assert canary_weight(model.state) == 0, look
            assert took_s < 2 * model.environment.call_timeout_s
            at_zero = clients.by_version().get(str(SECOND), 0)
            await_true(
                lambda stage=stage: (
                    watch.look(second, model.environment, stage) and canary_weight(model.state) == stage
                ),
                "the canary is proved again and has its weight back",
            )
            await_true(lambda n=at_zero: clients.by_version().get(str(SECOND), 0) > n + 10, "the canary answers again")
        assert clients.failed() == 0, clients.problems[:3]
    assert [event["stage"] for event in events(model, "withdrawn")] == [10, 50]
    assert [event["stage"] for event in events(model, "returned")] == [10, 50]
    roll_back.run(second, model.environment, "the test is over")


def second_stage(model: Model, release: Any) -> None:
    """Go to 50 % as if the first stage had been judged good."""
    from model_release.ledger.state import StateFile

    def judged(state: State) -> State:
        assert state.release is not None
        return state.model_copy(
            update={"release": state.release.model_copy(update={"verdicts": {"10": {"action": "advance"}}})}
        )

    StateFile(ObjectStore(model.environment.s3), model.name).change(judged)
    shift.run(release, model.environment, 50)


def test_a_candidate_that_fails_under_shadow_never_gets_weight_and_a_sound_one_goes_on(
    model: Model, shelf: Shelf
) -> None:
    shelf.seal(model, [FIRST, BROKEN])
    with Clients(model):
        model.release(model.build(FIRST))
    with Clients(model) as clients:
        with_canary(model, shadow=Shadow(percent=50, seconds=120), stages=[100])  # over as soon as it is judged bad
        with pytest.raises(RolledBack, match=r"shadow: errors: \d+ of \d+ canary requests"):
            model.release(model.build(BROKEN))
        assert str(BROKEN) not in clients.by_version()
        assert [event["stage"] for event in events(model, "shifted") if event["version"] == BROKEN] == [0]

        with_canary(model, shadow=Shadow(percent=50, seconds=12), stages=[100])
        later = model.build(BROKEN + 1, checkpoint=model.build(SECOND).checkpoint)
        model.release(later)
        assert [step for step in model.steps() if "shift" in step] == ["shift 0", "shift 100"]
        assert clients.failed() == 0, clients.problems[:3]
    shadowed, full = (next(told.result for told in model.told if told.step == f"watch {stage}") for stage in (0, 100))
    assert shadowed is not None
    assert full is not None
    assert shadowed["gates"][0]["canary"]["n"] > 50
    assert connect(model.environment).counters(model.name, "default")["blue"].mirrored_requests > 0, "the control"
