"""
Airflow DAGs `release_<name>`: one for every model config of include/model_configs.

    plan → export → validate → publish → benchmark → deploy → canary 10 → 50 → 100 → promote → finish

With `canary.shadow` a shadow comes before the canary: real requests, whose answers nobody waits for.
A restore goes from plan straight to deploy: a run that names a version, or the backfill of a date whose version is
sealed. It preempts a release that runs, for which a build waits in plan. With `canary.approval` a person says yes
before deploy, or before the last stage. A verdict against the canary, or the failure of any task from deploy on, leads
to roll_back, and so does a dry run. `finish` always runs and is the only leaf: the run is green only if what serves is
what was asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Label, TaskGroup, TriggerRule

from model_release.spec import ModelSpec
from model_release_airflow.approve import ApproveRelease
from model_release_airflow.backfills import RELEASES
from model_release_airflow.configs import specs_to_parse
from model_release_airflow.deploy import Deploy
from model_release_airflow.lineage import Publish
from model_release_airflow.plan import Plan
from model_release_airflow.schedules import params_of, schedule_of
from model_release_airflow.steps import (
    APPROVE,
    Benchmark,
    Finish,
    ReleaseStep,
    RollBack,
    build_or_restore,
    decide,
    first_stage,
    group_of,
    last_asked,
    minutes,
    stages_of,
    tooltip_of,
)
from model_release_airflow.watch import WatchCanary

#: For the steps that touch nothing that serves. The others are not tried again: they go back.
SAFE = {"retries": 2, "retry_delay": minutes(0.25), "execution_timeout": minutes(60)}


def release_dag(spec: ModelSpec) -> DAG:
    """Build the DAG that releases one model."""
    with DAG(
        dag_id=f"{RELEASES}{spec.name}",
        description=spec.description or f"Release {spec.name} to Triton through a judged canary",
        doc_md=__doc__,
        schedule=schedule_of(spec),
        catchup=False,
        # The claim lets one run at a time. Here more may start: a restore must not queue behind what it preempts.
        max_active_runs=16,
        default_args={"owner": spec.owner, "retries": 0},
        tags=["model-release", spec.name],
    ) as dag:
        plan = Plan(spec=spec, step="plan", execution_timeout=minutes(10))
        asks_early = spec.canary.approval == "before_canary"
        past_bench = APPROVE if asks_early else "deploy"
        begin_at = build_or_restore.override(execution_timeout=minutes(5))(past_bench)

        export = ReleaseStep(spec=spec, step="export", **SAFE)
        validate = ReleaseStep(spec=spec, step="validate", **SAFE)
        publish = Publish(spec=spec, step="publish", **SAFE)
        benchmark = Benchmark(
            spec=spec,
            step="benchmark",
            pool="model_release_bench",
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            execution_timeout=minutes(30 + 2 * spec.benchmark.budget_s / 60),
        )
        deploy = Deploy(
            spec=spec,
            step="deploy",
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            execution_timeout=minutes(60),
        )
        begin_canary = first_stage.override(execution_timeout=minutes(5))(last_asked(spec))

        plan >> begin_at
        begin_at >> Label("build") >> export >> validate >> publish >> benchmark
        begin_at >> Label("restore, never benchmarked") >> benchmark
        approve = approval(spec) if spec.canary.approval != "none" else None
        if approve is not None and asks_early:
            begin_at >> Label("restore") >> approve
            benchmark >> approve >> deploy
        else:
            begin_at >> Label("restore") >> deploy
            benchmark >> deploy
        deploy >> begin_canary

        stages = [canary_stage(spec, stage) for stage in stages_of(spec)]
        entries: list[Any] = [shift for shift, _ in stages]
        if approve is not None and not asks_early:
            approve >> entries[-1]
            entries[-1] = approve
        promote = ReleaseStep(spec=spec, step="promote", execution_timeout=minutes(10))
        roll_back = RollBack(
            spec=spec, step="roll_back", trigger_rule=TriggerRule.ALL_DONE, execution_timeout=minutes(15)
        )
        finish = Finish(spec=spec, step="finish", trigger_rule=TriggerRule.ALL_DONE, execution_timeout=minutes(10))

        # A stage may be left out of a plan, so every decision reaches all later stages, not only the next.
        for position, (_, verdict) in enumerate(stages):
            begin_canary >> entries[position]
            for later in entries[position + 1 :]:
                verdict >> Label("advance") >> later
            verdict >> Label("rollback") >> roll_back
        begin_canary >> Label("dry run") >> roll_back
        stages[-1][1] >> Label("advance") >> promote >> roll_back >> finish
        promote >> finish
    # Airflow gives each task that is made after them a copy of its own, which takes a third of the whole parse.
    dag.params = params_of(spec)
    return dag


def canary_stage(spec: ModelSpec, stage: int) -> tuple[ReleaseStep, object]:
    """Give the canary `stage` percent, wait for the verdict without holding a worker, and branch on it."""
    with TaskGroup(group_of(stage), tooltip=tooltip_of(stage)):
        shift = ReleaseStep(
            spec=spec,
            step="shift",
            task_id="shift",
            stage=stage,
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            execution_timeout=minutes(10),
        )
        watch = WatchCanary(spec=spec, stage=stage, task_id="watch", execution_timeout=minutes(5))
        verdict = decide.override(task_id="decide", execution_timeout=minutes(5))(stage, last_asked(spec))
        shift >> watch >> verdict
    return shift, verdict


def approval(spec: ModelSpec) -> ApproveRelease:
    """Wait for a person's yes, with the evidence before them; no answer in time is a no."""
    return ApproveRelease(
        spec=spec,
        task_id=APPROVE,
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        execution_timeout=minutes(10),
    )


for spec in specs_to_parse(Path(__file__).resolve().parents[1]):
    release_dag(spec)
