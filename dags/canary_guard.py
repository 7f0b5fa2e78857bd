"""
Airflow DAG `canary_guard`: every minute, return each canary whose release has died, and heal what serves.

It is for those who run no `model-release guard` as a process of its own, which also works while Airflow does not.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from model_release_airflow.guard import heal, return_orphans
from model_release_airflow.schedules import cron_of

with DAG(
    dag_id="canary_guard",
    description="Return canaries whose release has died, heal what serves",
    doc_md=__doc__,
    schedule=cron_of("* * * * *"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "ml-platform", "retries": 0},
    tags=["model-release"],
) as dag:
    return_orphans.override(execution_timeout=timedelta(minutes=5))()
    # A load may take as long as the environment's load_timeout_s, and be tried on several replicas.
    heal.override(execution_timeout=timedelta(minutes=30))()
