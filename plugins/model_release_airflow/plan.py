"""The task that begins a release: what the run asks for, and the wait for whoever has the model in hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

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
