"""The library's guard as Airflow tasks."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from model_release_airflow.connection import environment_of_task
from model_release_airflow.messages import channels_of
from model_release_airflow.steps import library_step

log = logging.getLogger(__name__)


@task
def return_orphans() -> dict[str, Any]:
    """Return the canaries whose release has died; fails with every problem, after all models were looked at."""
    environment = environment_of_task()
    return _told(library_step("guard").return_orphans(environment, channels=channels_of(environment)))


@task
def heal() -> dict[str, Any]:
    """Heal what serves; fails with every problem, after all models were looked at."""
    environment = environment_of_task()
    return _told(library_step("guard").heal_all(environment, channels=channels_of(environment)))


def _told(done: Any) -> dict[str, Any]:
    for each in done.returned:
        log.warning("returned the canary %s of %s: %s", each["version"], each["model"], each["reason"])
    for each in done.healed:
        log.warning("healed %s: %s", each["model"], each["act"])
    if done.problems:
        raise AirflowFailException("; ".join(done.problems))
    return asdict(done)
