"""The task that waits for a person's yes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context

from model_release.spec import ModelSpec
from model_release_airflow.asking import ANSWER, MOST_EXTENDED_S, AsksPeople
from model_release_airflow.releases import release_of
from model_release_airflow.steps import library_step, tell_people, told
from model_release_airflow.triggers import ApprovalTrigger


class ApproveRelease(AsksPeople):
    """
    Ask whether a release may go on, and fail unless somebody says yes in time.

    A release that needs no approval, as the frozen spec of its plan says, passes at once.
    """

    ui_color = "#fde8ef"
    answers = {"Approve": "advance", "Reject": "roll_back"}

    def __init__(self, *, spec: ModelSpec, **arguments: Any) -> None:
        super().__init__(approvers=spec.canary.approvers, default="Reject", **arguments)
        self.spec = spec

    def execute(self, context: Context) -> dict[str, Any]:
        """Show the evidence, and wait in the triggerer, which goes on looking."""
        asked = told(context, lambda release: library_step("approve").ask(release, self.environment()))
        if not asked["needed"]:
            return self._settled(context)
        self.ask_people(context, asked["subject"], asked["body"])
        release = release_of(context).to_dict()
        trigger = ApprovalTrigger(release=release, interval_s=asked["look_interval_s"])
        timeout_s = asked["hold_s"] + MOST_EXTENDED_S
        return self.defer(trigger=trigger, method_name="answered", timeout=timedelta(seconds=timeout_s))

    def answered(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Note the answer if it came by Airflow, and go on if it is a yes. Raises AirflowFailException otherwise."""
        release = release_of(context)
        if ANSWER in event:
            self.note_answer(release, event)
        tell_people(release.model)
        return self._settled(context)

    def _settled(self, context: Context) -> dict[str, Any]:
        return told(context, lambda release: library_step("approve").settle(release, self.environment()))
