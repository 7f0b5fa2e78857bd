"""The library's guard as an Airflow task."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from model_release_airflow.connection import environment_of_task
from model_release_airflow.steps import library_step

log = logging.getLogger(__name__)


@task
def look_after_canaries() -> dict[str, Any]:
    """Run one round of the guard; fails with every problem, after all models were looked at."""
    done = library_step("guard").run(environment_of_task())
    for each in done.returned:
        log.warning("returned the canary %s of %s: %s", each["version"], each["model"], each["reason"])
    if done.problems:
        raise AirflowFailException("; ".join(done.problems))
    return asdict(done)
