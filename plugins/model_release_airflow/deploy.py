"""The task that brings the version onto the canary fleet, once it is its turn there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from model_release_airflow import steps
from model_release_airflow.connection import environment_of_task
from model_release_airflow.releases import release_of
from model_release_airflow.steps import ERROR, ReleaseStep, told
from model_release_airflow.triggers import TurnTrigger

#: The looks know their own deadline; the timeout is for when none succeeds.
_GRACE_S = 300.0


class Deploy(ReleaseStep):
    """The step deploy; where one canary at a time is wanted on a fleet pair, it waits in the triggerer for its turn."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Stand in the queue, and deploy at once if nobody is before this release."""
        turn = told(context, lambda release: steps.library_step("queue").look(release, environment_of_task()))
        if turn["done"]:
            return self.run_step(context)
        trigger = TurnTrigger(release=release_of(context).to_dict(), behind=turn["behind"])
        timeout = timedelta(seconds=turn["wait_s"] + _GRACE_S)
        return self.defer(trigger=trigger, method_name="in_turn", timeout=timeout)

    def in_turn(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Deploy. Raises AirflowFailException when the wait was in vain."""
        if ERROR in event:
            context["ti"].xcom_push(key=ERROR, value=event[ERROR])
            raise AirflowFailException(event[ERROR])
        return self.run_step(context)
