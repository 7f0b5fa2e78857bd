"""
Airflow DAG `retrain_digits_classifier`: trains the example model every day and emits its Asset.

It stands in for the users' own training. The Asset's event says where the checkpoint lies, and so releases it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Metadata, Param, task

from model_release_airflow.connection import environment_of_task
from model_release_airflow.releases import training_date

DIGITS = Asset("s3://training/digits_classifier")


@task(outlets=[DIGITS], retries=2, retry_delay=timedelta(seconds=15), execution_timeout=timedelta(minutes=30))
def retrain(dag_run: Any = None, params: Any = None) -> Any:
    """Train on the run's date and tell the Asset's consumers where the checkpoint lies."""
    from example_models.training import publish_training_data, retrain_digits

    environment, date = environment_of_task(), training_date(dag_run, params["date"])
    publish_training_data(environment)
    trained = retrain_digits(date, environment, broken=params["broken"])
    yield Metadata(DIGITS, {"checkpoint": trained["uri"], "date": date, "sha256": trained["sha256"]})
    return trained


with DAG(
    dag_id="retrain_digits_classifier",
    description="Train the digits classifier on a day's data and emit its Asset",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "ml-platform"},
    params={
        "date": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d{2}-\d{2}$",
            title="Date",
            description="Train as of this date, YYYY-MM-DD; empty for the run's own",
        ),
        "broken": Param(
            default=False,
            type="boolean",
            title="Broken",
            description="Train with a bug that only real traffic shows; to watch a canary stop it",
        ),
    },
    tags=["example"],
) as dag:
    retrain()
