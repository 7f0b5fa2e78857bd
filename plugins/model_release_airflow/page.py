"""
The report of a run, as a page of Airflow's own web server, for those who may read its DAG.

Routes of a plugin are open to anyone unless they say otherwise. What guards them here is a part of Airflow's core that
is no public interface; it is used in this module alone.
"""

from __future__ import annotations

from html import escape

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag, requires_authenticated
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from model_release.errors import ReleaseError, ReportMissing
from model_release_airflow.backfills import RELEASES
from model_release_airflow.configs import read_configs
from model_release_airflow.connection import environment_of_task
from model_release_airflow.steps import library_step

#: Nothing on the page runs or is fetched, whatever stands in a user's model config.
_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_NOT_FOUND, _UNAVAILABLE = 404, 503

app = FastAPI(title="Model releases", docs_url=None, redoc_url=None, openapi_url=None)
app.router.dependencies.append(Depends(requires_authenticated()))


@app.get(
    "/report/{dag_id}/{run_id:path}",
    response_class=HTMLResponse,
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
)
def report(dag_id: str, run_id: str) -> HTMLResponse:
    """Return the report of a run, or a sentence that says why there is none."""
    spec = read_configs().specs.get(dag_id.removeprefix(RELEASES)) if dag_id.startswith(RELEASES) else None
    if spec is None:
        return _said(f"{dag_id} releases no model, so its runs have no report.", _NOT_FOUND)
    try:
        return HTMLResponse(library_step("report").newest(spec, run_id, environment_of_task()), headers=_POLICY)
    except ReportMissing as missing:
        return _said(str(missing), _NOT_FOUND)
    except ReleaseError as error:
        return _said(str(error), _UNAVAILABLE)


def _said(sentence: str, status: int) -> HTMLResponse:
    style = "font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color-scheme: light dark"
    return HTMLResponse(f'<p style="{style}">{escape(sentence)}</p>', status, headers=_POLICY)
