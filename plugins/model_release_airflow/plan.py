"""The task that begins a release: what the run asks for, and the wait for whoever has the model in hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_KEY
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.xcom import XCom

from model_release.errors import AlreadyStable, ClaimHeld
from model_release.identity import Release
from model_release_airflow import steps
from model_release_airflow.connection import environment_of_task
from model_release_airflow.releases import asked_of
from model_release_airflow.steps import ERROR, ReleaseStep, told
from model_release_airflow.triggers import ClaimTrigger

#: A release may be held for a person for long; a build that waits longer is not worth its traffic any more.
LONGEST_WAIT = timedelta(hours=24)


class Plan(ReleaseStep):
    """
    The first step, which freezes the spec for all others.

    A build waits in the triggerer while another release has the claim; a restore preempts it. A run that has nothing to
    do is skipped with the reason: another date of its backfill is meant, or its version has the traffic already.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Run plan with the spec of the file as it is now."""
        self._forget_branches(context)
        try:
            return told(context, self._plan, lambda: self._asked(context))
        except AirflowSkipException as skipped:
            context["ti"].xcom_push(key=ERROR, value=str(skipped))
            raise
        except ClaimHeld:
            trigger = ClaimTrigger(model=self.spec.served_name)
            self.defer(trigger=trigger, method_name="try_again", timeout=LONGEST_WAIT)

    def try_again(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Run plan once more, as the claim is free; another run may be faster."""
        self.log.info("%s is free after %s", self.spec.served_name, event["waited_for"])
        return self.execute(context)

    def _forget_branches(self, context: Context) -> None:
        """
        Forget what the branches of the run's earlier try have chosen.

        Airflow's NotPreviouslySkippedDep goes by it also where a branch is itself skipped this time, as in the short
        path of a restore: what the branch did not follow then would be skipped, and the release go back.
        """
        run, ti = context["dag_run"], context["ti"]
        if not run.clear_number and ti.try_number == 1:
            return
        for task in self.dag.tasks:
            if task.inherits_from_skipmixin:
                XCom.delete(XCOM_SKIPMIXIN_KEY, task.task_id, run.dag_id, run.run_id, map_index=-1)

    def _asked(self, context: Context) -> Release:
        plan, environment = steps.library_step(self.step), environment_of_task()
        return asked_of(context, self.spec, lambda model, version: plan.kind_of_date(model, version, environment))

    def _plan(self, release: Release) -> dict[str, Any]:
        try:
            planned: dict[str, Any] = steps.library_step(self.step).run(release, environment_of_task(), self.spec)
        except AlreadyStable as there:
            if there.canary is not None:
                raise
            raise AirflowSkipException(str(there)) from None
        return planned
