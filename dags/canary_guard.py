"""
Airflow DAG `canary_guard`: every minute, return to 0 each canary whose release has died.

It is for those who run no `model-release guard` as a process of its own, which also works while Airflow does not.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from model_release_airflow.guard import look_after_canaries

with DAG(
    dag_id="canary_guard",
    description="Return canaries whose release has died",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("* * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "ml-platform", "retries": 0},
    tags=["model-release"],
) as dag:
    look_after_canaries.override(execution_timeout=timedelta(minutes=5))()
