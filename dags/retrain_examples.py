"""
Airflow DAGs `retrain_<example>`: train an example model and emit its Asset.

They stand in for the users' own training. An Asset's event says where the checkpoint lies, and so releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Metadata, Param, task

from model_release_airflow.connection import environment_of_task
from model_release_airflow.releases import training_date
from model_release_airflow.schedules import cron_of


def train_digits(date: str, broken: bool) -> dict[str, Any]:
    """Train the digits classifier as of a date."""
    from example_models.training import publish_training_data, retrain_digits

    environment = environment_of_task()
    publish_training_data(environment)
    return retrain_digits(date, environment, broken=broken)


def train_embedding(date: str, broken: bool) -> dict[str, Any]:
    """Train the embedding model as of a date."""
    from example_models.embedding_training import publish_sentences, retrain_embedding

    environment = environment_of_task()
    publish_sentences(environment)
    return retrain_embedding(date, environment, broken=broken)


def train_traced(date: str, broken: bool) -> dict[str, Any]:
    """Train the embedding model as of a date, and trace it."""
    from example_models.embedding_training import TRACED_FOLDER, publish_sentences, retrain_traced

    environment = environment_of_task()
    publish_sentences(environment, TRACED_FOLDER)
    return retrain_traced(date, environment, broken=broken)


def train_text(date: str, broken: bool) -> dict[str, Any]:
    """Train the text classifier as of a date."""
    from example_models.text_training import publish_texts, retrain_text

    environment = environment_of_task()
    publish_texts(environment)
    return retrain_text(date, environment, broken=broken)


def retraining(model: str, schedule: str | None, train: Callable[[str, bool], dict[str, Any]], bug: str) -> DAG:
    """Return the DAG that trains one model and emits `s3://training/<model>`."""
    asset = Asset(f"s3://training/{model}")
    params = {
        "date": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d{2}-\d{2}$",
            title="Date",
            description="Train as of this date, YYYY-MM-DD; empty for the run's own",
        ),
        "broken": Param(default=False, type="boolean", title="Broken", description=bug),
    }
    with DAG(
        dag_id=f"retrain_{model}",
        description=f"Train {model} on a day's data and emit its Asset",
        doc_md=__doc__,
        schedule=cron_of(schedule) if schedule else None,
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "ml-platform"},
        params=params,
        tags=["example"],
    ) as dag:

        @task(outlets=[asset], retries=2, retry_delay=timedelta(seconds=15), execution_timeout=timedelta(minutes=30))
        def retrain(dag_run: Any = None, params: Any = None) -> Any:
            """Train on the run's date and tell the Asset's consumers where the checkpoint lies."""
            date = training_date(dag_run, params["date"])
            trained = train(date, params["broken"])
            yield Metadata(asset, {"checkpoint": trained["uri"], "date": date, "sha256": trained["sha256"]})
            return trained

        retrain()
    return dag


digits = retraining(
    "digits_classifier",
    "0 2 * * 0",
    train_digits,
    "Train with a bug that only real traffic shows; to watch a canary stop it",
)
embedding = retraining(
    "embedding_model",
    None,
    train_embedding,
    "Train vectors of another space; to watch validate stop it",
)
traced = retraining(
    "embedding_model_torchscript",
    None,
    train_traced,
    "Train vectors of another space; to watch validate stop it",
)
text = retraining(
    "text_classifier",
    None,
    train_text,
    "Train with the labels in another order; to watch validate stop it",
)
