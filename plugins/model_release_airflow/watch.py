"""The task that judges a canary stage; it waits in the triggerer, and asks a person when the looks do not decide."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from model_release.errors import ReleaseError
from model_release.identity import Release
from model_release.spec import ModelSpec
from model_release_airflow.asking import ANSWER, MOST_EXTENDED_S, AsksPeople
from model_release_airflow.releases import planned_of, release_of
from model_release_airflow.steps import ERROR, is_passing, library_step, tell_people
from model_release_airflow.triggers import LookTrigger

_GRACE_S = 300.0


class WatchCanary(AsksPeople):
    """
    Judge one stage look by look; the result is the deciding look with its `action`, advance or rollback.

    A stage that is held is asked about, and looks go on: no answer overrules a verdict against the canary.
    """

    ui_color = "#fff4d6"
    answers = {"Advance": "advance", "Roll back": "roll_back", "Extend": "extend"}

    def __init__(self, *, spec: ModelSpec, stage: int, **arguments: Any) -> None:
        super().__init__(approvers=spec.canary.approvers, default="Roll back", **arguments)
        self.spec = spec
        self.stage = stage

    def execute(self, context: Context) -> NoReturn:
        """Hand over to the triggerer; the looks know their own deadlines, the timeout is for when none succeeds."""
        self._wait(context, asked=False)

    def _wait(self, context: Context, *, asked: bool) -> NoReturn:
        planned = planned_of(context["ti"])  # by the spec that plan has frozen, whatever the file says by now
        trigger = LookTrigger(
            release=release_of(context).to_dict(),
            stage=self.stage,
            interval_s=planned["look_interval_s"],
            asked=asked,
        )
        timeout_s = planned["longest_stage_s"] + (MOST_EXTENDED_S if asked else _GRACE_S)
        self.defer(trigger=trigger, method_name="judged", timeout=timedelta(seconds=timeout_s))

    def judged(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """
        Return the look that decided the stage; before that, ask about one that is held, or note the answer.

        Raises AirflowFailException when looking itself failed.
        """
        release = release_of(context)
        if ANSWER in event:
            extends, look = self.note_answer(release, event) == "extend", self._look(release)
            if look is None or not (extends or look.get("done", True)):
                # After an extension the question is asked anew: by the look here, or by the next that succeeds.
                self._wait(context, asked=not extends)
            event = look
        tell_people(release.model)
        if ERROR in event:
            context["ti"].xcom_push(key=ERROR, value=event[ERROR])
            raise AirflowFailException(event[ERROR])
        if not event["done"]:
            self._ask(context, event)
            self._wait(context, asked=True)
        self.log.info("stage %s %%: %s, so: %s", self.stage, event["reason"], event["action"])
        return event

    def _look(self, release: Release) -> dict[str, Any] | None:
        """Take the look that acts on an answer at once; None when an outside system did not answer."""
        try:
            look: dict[str, Any] = library_step("watch").look(release, self.environment(), self.stage)
        except ReleaseError as error:
            if not is_passing(error, release):
                return {ERROR: str(error)}
            self.log.warning("no look: %s", error)
            return None
        return look

    def _ask(self, context: Context, look: dict[str, Any]) -> None:
        release = release_of(context)
        asked = library_step("held").question(release, self.environment(), self.stage, look)
        self.ask_people(context, asked["subject"], asked["body"])
