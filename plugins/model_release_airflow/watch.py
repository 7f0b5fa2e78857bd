"""The task that judges a canary stage; it waits in the triggerer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from model_release.spec import ModelSpec
from model_release_airflow.releases import release_of
from model_release_airflow.steps import ERROR
from model_release_airflow.triggers import LookTrigger

_GRACE_S = 300.0


class WatchCanary(BaseOperator):
    """Judge one stage look by look; the result is the deciding look with its `action`, advance or rollback."""

    ui_color = "#fff4d6"

    def __init__(self, *, spec: ModelSpec, stage: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec = spec
        self.stage = stage

    def execute(self, context: Context) -> NoReturn:
        """Hand over to the triggerer; the looks know their own deadlines, this timeout is for when none succeeds."""
        canary = self.spec.canary
        trigger = LookTrigger(
            release=release_of(context, self.spec).to_dict(), stage=self.stage, interval_s=canary.look_interval_s
        )
        timeout = timedelta(seconds=canary.max_bake_s + canary.hold_s + _GRACE_S)
        self.defer(trigger=trigger, method_name="judged", timeout=timeout)

    def judged(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the look that decided the stage. Raises AirflowFailException when looking itself failed."""
        if ERROR in event:
            context["ti"].xcom_push(key=ERROR, value=event[ERROR])
            raise AirflowFailException(event[ERROR])
        self.log.info("stage %s %%: %s, so: %s", self.stage, event["reason"], event["action"])
        return event
