"""
What Airflow's web server shows of releases (the report of each run), and its scheduler tells the runs of a backfill.

Every process of Airflow loads this file, so what only the web server needs is imported there, at the first request.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from model_release_airflow import backfills
from model_release_airflow.links import PREFIX, ReportLink


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request to the page."""
    from model_release_airflow.page import app

    await app(scope, receive, send)


class ModelReleasePlugin(AirflowPlugin):
    """Registers the page and its links."""

    name = "model_release"
    fastapi_apps = [{"app": page, "url_prefix": PREFIX, "name": "Model releases"}]
    external_views = [
        {
            "name": "Release report",
            "href": f"{PREFIX}/report/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "release-report",
        }
    ]
    operator_extra_links = [ReportLink()]
    listeners = [backfills]
