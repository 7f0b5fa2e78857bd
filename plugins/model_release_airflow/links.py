"""Links of a release's tasks in Airflow's UI, and where the plugin's pages are."""

from __future__ import annotations

from urllib.parse import quote

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.types import TaskInstanceKey

PREFIX = "/model-release"


def address(dag_id: str, run_id: str) -> str:
    """Return where a run's report is."""
    return f"{PREFIX}/report/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


class ReportLink(BaseOperatorLink):
    """The report of the task's run."""

    name = "Release report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the page of the run."""
        return address(ti_key.dag_id, ti_key.run_id)
