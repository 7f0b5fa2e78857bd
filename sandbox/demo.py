"""
The demo: a trained model goes into production, then a retrained one through a canary; a `--broken` one is stopped.

It only asks Airflow to train, follows what the new checkpoint sets off, and says what clients saw. The exit code is 0
only if the router answers with the version that should serve.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from model_release.environment import Environment, load_environment
from model_release.errors import ReleaseError
from model_release.ledger.state import State, StateFile
from model_release.repository.store import ObjectStore
from sandbox import airflow
from sandbox.airflow_rest import AirflowRest, TaskChange
from sandbox.demo_summary import Observed, observe, served_versions, told
from sandbox.errors import SandboxError
from sandbox.home import Home, find_home
from sandbox.settings import load_settings

_CANARY = ("plan", "export", "validate", "publish", "benchmark", "deploy", "canary_10.shift", "canary_10.watch")
#: The first training's date lies so far back that no demo comes to the present.
_FIRST_DATE_AGO = timedelta(days=365)


@dataclass(frozen=True)
class Example:
    """An example model, what a broken training makes of it, and what has to stop that."""

    model: str
    bug: str
    stopped_by_canary: bool

    @property
    def release_dag(self) -> str:
        """The DAG that releases it."""
        return f"release_{self.model}"

    @property
    def retrain_dag(self) -> str:
        """The DAG that trains it."""
        return f"retrain_{self.model}"


DIGITS = Example("digits_classifier", "a bug that only real traffic shows", stopped_by_canary=True)
EMBEDDING = Example("embedding_model", "vectors of another space than stable's", stopped_by_canary=False)
TEXT = Example("text_classifier", "the labels in another order", stopped_by_canary=False)
TRACED = Example("embedding_model_torchscript", EMBEDDING.bug, stopped_by_canary=False)
EXAMPLES = {example.model: example for example in (DIGITS, EMBEDDING, TRACED, TEXT)}


@dataclass(frozen=True)
class Demo:
    """What the demo talks to, and about which model."""

    home: Home
    environment: Environment
    rest: AirflowRest
    example: Example

    def state(self) -> State:
        """Return the ledger's state of the model."""
        return StateFile(ObjectStore(self.environment.s3), self.example.model).read()

    def served_versions(self) -> dict[str, int]:
        """Return how many of some real answers of the router came from each version."""
        return served_versions(self.environment, self.example.model)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if what serves is what should, 1 if not, with a line that says why."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description=__doc__)
    parser.add_argument("--model", choices=EXAMPLES, default=DIGITS.model, help="which example")
    parser.add_argument("--broken", action="store_true", help="release a model that has to be stopped")
    options = parser.parse_args(arguments)
    try:
        demo = connect(EXAMPLES[options.model])
        return rollback_story(demo) if options.broken else release_story(demo)
    except (SandboxError, ReleaseError) as error:
        say(f"demo: {error}")
        return 1
    except KeyboardInterrupt:
        say("demo: interrupted; Airflow goes on with what runs")
        return 1


def connect(example: Example = DIGITS) -> Demo:
    """Find the running sandbox. Raises SandboxError when it is not up."""
    home, settings = find_home(), load_settings()
    rest = AirflowRest(airflow.url(settings))
    for dag in (example.release_dag, example.retrain_dag):
        rest.unpause(dag)
    return Demo(home, load_environment(home.environment_file), rest, example)


def release_story(demo: Demo) -> int:
    """Bring a first model into production if none serves, then a retrained one through the canary."""
    began_at, before = datetime.now(UTC), demo.state().stable
    if before is None:
        say("\nNothing serves yet: a first model is trained and released.")
        first = train_and_release(demo, broken=False)
        if first.state != "success":
            return _ended(demo, [f"the first release is {first.state}: {first.failure} See {first.page}"])
        before = demo.state().stable
        say(f"\nVersion {first.version} serves: the first, where nothing served before.")
    else:
        say(f"\nVersion {before.version} serves since an earlier demo.")
    say("\nA retrained model goes through the canary.")
    observed = train_and_release(demo, broken=False)
    say("")
    for line in told(observed, before.version if before else None, demo.state(), began_at):
        say(line)
    return _ended(demo, _not_served(demo, observed), f"the router answers with version {observed.version}, as asked")


def rollback_story(demo: Demo) -> int:
    """Release a broken model, and check that it was stopped by what should stop it, and changed nothing."""
    if demo.state().stable is None:
        say("\nNothing serves yet: a sound model is trained and released first.")
        train_and_release(demo, broken=False)
    began_at, before = datetime.now(UTC), demo.state().stable
    if before is None:
        return _ended(demo, ["there is no stable version to go back to"])
    say(f"\nA model with {demo.example.bug} is released.")
    observed = train_and_release(demo, broken=True)
    after = demo.state()
    say("")
    for line in told(observed, before.version, after, began_at):
        say(line)
    if demo.example.stopped_by_canary:
        stopped, good = (
            _not_stopped_by_the_gate(demo, observed, after),
            "the canary's gate stopped {}, which is rejected",
        )
    else:
        stopped, good = _not_stopped_by_validate(demo, observed), "validate stopped {}"
    problems = [*stopped, *_not_back(demo, before.version, after)]
    return _ended(demo, problems, f"as it should be: {good.format(observed.version)}; {before.version} serves")


def train_and_release(demo: Demo, *, broken: bool) -> Observed:
    """Train on the next date; the new checkpoint's Asset event starts the release, which is followed to its end."""
    retrain, release_dag = demo.example.retrain_dag, demo.example.release_dag
    trained_on = next_date(demo.state())
    training = demo.rest.trigger(retrain, {"date": trained_on, "broken": broken})
    say(f"{retrain}, on the data of {trained_on}")
    if demo.rest.follow(retrain, training, say_change) != "success":
        message = f"the training failed: {demo.rest.page(retrain, training)}"
        raise SandboxError(message)
    release = demo.rest.run_that_followed(retrain, training, release_dag)
    say(f"{release_dag}, started by the Asset of the new checkpoint")
    say(f"  {demo.rest.page(release_dag, release)}")
    state = demo.rest.follow(release_dag, release, say_change)
    return observe(
        demo.home, demo.environment, demo.rest.page(release_dag, release), demo.example.model, release, state
    )


def next_date(state: State) -> str:
    """Return the day after the newest checkpoint that was released, so that each demo trains another model."""
    used = re.search(r"\d{4}-\d{2}-\d{2}", state.release.checkpoint) if state.release else None
    if used is None:
        return f"{datetime.now(UTC).date() - _FIRST_DATE_AGO:%Y-%m-%d}"
    return f"{date.fromisoformat(used.group()) + timedelta(days=1):%Y-%m-%d}"


def _not_served(demo: Demo, observed: Observed) -> list[str]:
    served = demo.served_versions()
    problems = [] if observed.state == "success" else [f"the run is {observed.state}: {observed.failure}"]
    if served != {str(observed.version): sum(served.values())}:
        problems.append(f"version {observed.version} was asked for, the router answers with {served}")
    return problems


def _not_stopped_by_the_gate(demo: Demo, observed: Observed, after: State) -> list[str]:
    """Return what speaks against the canary's gate having stopped the release, and nothing earlier."""
    tasks = demo.rest.task_states(demo.example.release_dag, observed.run)
    problems = [f"{task} ended as {tasks.get(task)}" for task in _CANARY if tasks.get(task) != "success"]
    last = observed.verdicts[-1] if observed.verdicts else {}
    if last.get("verdict") != "rollback":
        problems.append(f"no gate judged it 'rollback': the last verdict is {last.get('verdict', 'missing')}")
    if (tasks.get("roll_back"), tasks.get("finish"), observed.state) != ("success", "failed", "failed"):
        problems.append(
            f"roll_back ended as {tasks.get('roll_back')}, finish as {tasks.get('finish')}, the run as {observed.state}"
        )
    if after.rejection_of(observed.version) is None:
        problems.append(f"version {observed.version} is not rejected")
    return problems


def _not_stopped_by_validate(demo: Demo, observed: Observed) -> list[str]:
    """Return what speaks against validate having stopped the release, before any replica was touched."""
    tasks = demo.rest.task_states(demo.example.release_dag, observed.run)
    wanted = {"plan": "success", "export": "success", "validate": "failed", "deploy": "upstream_failed"}
    wanted["finish"] = "failed"
    return [f"{task} ended as {tasks.get(task)}" for task, state in wanted.items() if tasks.get(task) != state]


def _not_back(demo: Demo, stable: int, after: State) -> list[str]:
    """Return what is not as it was before the broken release, and what it should have left behind."""
    served = demo.served_versions()
    checks: list[tuple[Any, str]] = [
        (served == {str(stable): sum(served.values())}, f"the router answers with {served}, stable is {stable}"),
        (after.stable is not None and after.stable.version == stable, f"the ledger's stable is {after.stable}"),
        (after.canary is None, f"the ledger still has the canary {after.canary}"),
    ]
    return [problem for holds, problem in checks if not holds]


def _ended(demo: Demo, problems: list[str], good: str = "") -> int:
    """Print how it ended and return the exit code."""
    say(f"Airflow     {demo.rest.url}  (no login)")
    for problem in problems:
        say(f"NOT AS ASKED: {problem}")
    if not problems:
        say(f"done        {good}")
    return 1 if problems else 0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def say_change(change: TaskChange) -> None:
    """Print one change of a task."""
    seconds = "" if change.seconds is None else f"{change.seconds:8.1f} s"
    word = "watching" if change.state == "deferred" else change.state
    say(f"  {time.strftime('%H:%M:%S')}  {change.task:<18} {word:<16}{seconds}")


if __name__ == "__main__":
    sys.exit(main())
