"""The library's steps as Airflow tasks: each calls one step and hands its small result on."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, TriggerRule, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from model_release.errors import ReleaseError, Superseded
from model_release.identity import Mode, Release
from model_release.spec import ModelSpec
from model_release_airflow.connection import environment_of_task
from model_release_airflow.links import ReportLink
from model_release_airflow.messages import channels_of
from model_release_airflow.releases import holder_of, planned_of, release_of

ERROR = "error"
"""The XCom key under which a failed step leaves its sentence."""

APPROVE = "approve"
"""The task that waits for a person's yes, in the DAG of a model whose config asks for one."""

log = logging.getLogger(__name__)


def library_step(name: str) -> Any:
    """Return a module of `model_release.steps`; imported late, since it brings what no parse of a DAG should load."""
    return importlib.import_module(f"model_release.steps.{name}")


class ReleaseStep(BaseOperator):
    """
    One step of the release of one model.

    A failure that another try cannot mend fails the task at once, whatever `retries` says.
    """

    ui_color = "#e8f0fe"
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, spec: ModelSpec, step: str, stage: int | None = None, **arguments: Any) -> None:
        arguments.setdefault("task_id", step)
        super().__init__(**arguments)
        self.spec = spec
        self.step = step
        self.stage = stage

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step and return its result."""
        arguments = () if self.stage is None else (self.stage,)
        return self.run_step(context, *arguments)

    def run_step(self, context: Context, *arguments: Any) -> dict[str, Any]:
        """Call `steps.<step>.run(release, environment, *arguments)`, with its errors as Airflow's."""

        def run(release: Release) -> dict[str, Any]:
            result: dict[str, Any] = library_step(self.step).run(release, environment_of_task(), *arguments)
            return result

        return told(context, run)


def told(
    context: Context, run: Callable[[Release], dict[str, Any]], asked: Callable[[], Release] | None = None
) -> dict[str, Any]:
    """
    Run something for the release of a run, which plan has made of what was `asked`; its sentences go to the task's log.

    Raises AirflowFailException, which is not tried again, unless the library says that another try may help.
    """
    release: Release | None = None
    try:
        release = release_of(context) if asked is None else asked()
        result = run(release)
    except ReleaseError as error:
        log.error("%s", error)  # noqa: TRY400  # the sentence is for people; the traceback follows from Airflow
        context["ti"].xcom_push(key=ERROR, value=str(error))
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error
    finally:
        if release is not None:
            tell_people(release.model)
    for line in result.get("lines") or [json.dumps(result, default=str)]:
        log.info("%s", line)
    return result


def is_passing(error: ReleaseError, release: Release) -> bool:
    """Say whether the next look may succeed: an outside system was away, or another look of the same release came."""
    return error.retryable or (isinstance(error, Superseded) and error.is_by(release.holder))


def tell_people(model: str) -> None:
    """Send what a model's events have to say to whom its config names; what goes wrong is only logged."""
    try:
        environment = environment_of_task()
    except ReleaseError as error:
        log.warning("no messages of %s were sent: %s", model, error)
        return
    library_step("notify").tell(model, environment, channels_of(environment))


class Benchmark(ReleaseStep):
    """The measurement on bench, unless it is switched off or sealed."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step. Raises AirflowSkipException when plan says that there is nothing to measure."""
        if (context["ti"].xcom_pull(task_ids="plan") or {}).get("skip_benchmark"):
            message = "there is nothing to measure: the benchmark is sealed, or was switched off for this release"
            raise AirflowSkipException(message)
        return super().execute(context)


class RollBack(ReleaseStep):
    """The way back; it skips itself when there is nothing to take back."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back unless the canary was promoted or never came near a fleet."""
        states = states_of(context)
        promoted = context["ti"].xcom_pull(task_ids="promote") is not None
        if not needs_roll_back(states, promoted=promoted):
            message = f"nothing to roll back: deploy is {states.get('deploy')}, promote is {states.get('promote')}"
            raise AirflowSkipException(message)
        return self.run_step(context, reason_to_go_back(context, states))


class Finish(ReleaseStep):
    """The last step, which alone gives the run its colour."""

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Compare what serves with what was asked; a run of which plan asked nothing is skipped, and says why.

        Raises AirflowFailException with plan's own sentence for a run that plan refused, whose claim is given back.
        """
        plan = states_of(context).get("plan")
        sentence = context["ti"].xcom_pull(task_ids="plan", key=ERROR)
        if plan == "skipped":
            raise AirflowSkipException(sentence or "plan was skipped")
        if plan == "failed":
            with suppress(ReleaseError):
                library_step(self.step).run(holder_of(context, self.spec), environment_of_task())
            message = f"plan: {sentence or 'the task died without a word, see its log'}"
            raise AirflowFailException(message)
        return super().execute(context)


def states_of(context: Context) -> dict[str, Any]:
    """Return the states of the run's tasks by their ids."""
    run = context["dag_run"]
    states: dict[str, Any] = context["ti"].get_task_states(dag_id=run.dag_id, run_ids=[run.run_id])[run.run_id]
    return states


def needs_roll_back(states: dict[str, Any], *, promoted: bool) -> bool:
    """
    Say whether the canary fleet was touched and the canary did not become stable.

    A promote that was marked success by hand has `promoted` nothing: it left no result.
    """
    return states.get("deploy") in ("success", "failed") and not (promoted and states.get("promote") == "success")


def reason_to_go_back(context: Context, states: dict[str, Any]) -> str:
    """Return the sentence of the step that failed, or an empty string when a gate's verdict is the reason."""
    for task_id in sorted(task_id for task_id, state in states.items() if state == "failed"):
        sentence = context["ti"].xcom_pull(task_ids=task_id, key=ERROR)
        return f"{task_id}: {sentence or 'the task died without a word, see its log'}"
    return ""


@task.branch
def build_or_restore(past_bench: str, ti: Any = None) -> str:
    """Go to export for a build, else past what the archive holds already; `past_bench` is what follows benchmark."""
    planned = planned_of(ti)
    if planned["kind"] == "build":
        return "export"
    return past_bench if planned["skip_benchmark"] else "benchmark"


@task.branch(trigger_rule=TriggerRule.ALL_SUCCESS)
def first_stage(asked: int | None, ti: Any = None) -> str:
    """Go to the first stage of the plan; a first release has the stage 100 alone, a dry run none."""
    planned = planned_of(ti)
    return "roll_back" if planned["mode"] == Mode.DRY_RUN else entry_of(planned["stages"][0], asked)


@task.branch
def decide(stage: int, asked: int | None, ti: Any = None) -> str:
    """Go on or back, as the verdict of the stage says; before the stage `asked` a person is asked."""
    verdict = ti.xcom_pull(task_ids=watch_of(stage))
    if verdict is None:
        message = f"nobody has judged the stage {stage} %: the state of {watch_of(stage)} was set by hand"
        raise AirflowFailException(message)
    log.info("stage %s %%: %s (%s), so: %s", stage, verdict["verdict"], verdict["reason"], verdict["action"])
    if verdict["action"] != "advance":
        return "roll_back"
    later = [other for other in planned_of(ti)["stages"] if other > stage]
    return entry_of(later[0], asked) if later else "promote"


def stages_of(spec: ModelSpec) -> list[int]:
    """Return every stage that a plan may have; 0 is the shadow."""
    return [*([0] if spec.canary.shadow else []), *spec.canary.stages]


def group_of(stage: int) -> str:
    """Return the id of a stage's task group."""
    return f"canary_{stage}" if stage else "shadow"


def tooltip_of(stage: int) -> str:
    """Return what a stage's task group says of itself."""
    return f"{stage} % of the traffic to the new version" if stage else "the new version, mirrored requests alone"


def shift_of(stage: int) -> str:
    """Return the id of the task that begins a stage."""
    return f"{group_of(stage)}.shift"


def last_asked(spec: ModelSpec) -> int | None:
    """Return the stage before which a person is asked, if there is one."""
    return spec.canary.stages[-1] if spec.canary.approval == "before_full" else None


def entry_of(stage: int, asked: int | None) -> str:
    """Return the id of the task that leads into a stage."""
    return APPROVE if stage == asked else shift_of(stage)


def watch_of(stage: int) -> str:
    """Return the id of the task that judges a stage."""
    return f"{group_of(stage)}.watch"


def minutes(count: float) -> timedelta:
    """Return a timeout."""
    return timedelta(minutes=count)
