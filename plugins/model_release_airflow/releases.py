"""Which release a DAG run is: the one place where Airflow's run becomes the library's Release."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.types import DagRunProtocol

from model_release.errors import CheckpointMissing
from model_release.identity import Kind, Release, date_of, version_of
from model_release.spec import ModelSpec, render_template, template_variables

_EXTRA = "asset.extra."


def release_of(context: Context, spec: ModelSpec) -> Release:
    """
    Return the release that a run and all its tries are.

    A run that names `restore_version` restores it; every other run builds the version of its date.
    Raises AirflowFailException for a restore without a reason, CheckpointMissing when the checkpoint's template
    names what no asset event has said.
    """
    run, params = context["dag_run"], context["params"]
    restored: int | None = params["restore_version"]
    if restored is not None and not params["reason"].strip():
        message = f"a restore of {spec.name} version {restored} needs a reason: trigger the run again and give one."
        raise AirflowFailException(message)
    version = restored or version_of(run.logical_date or run.run_after)
    return Release(
        model=_model(context, spec),
        version=version,
        kind=Kind.BUILD if restored is None else Kind.RESTORE,
        run_id=run.run_id,
        clear_number=run.clear_number or 0,
        checkpoint=None if restored is not None else _checkpoint(context, spec, version),
        reason=params["reason"],
        by=run.triggering_user_name or str(run.run_type),
        sha256=None if restored is not None else _sha256(context, spec),
    )


def _model(context: Context, spec: ModelSpec) -> str:
    """Return the name that the run's plan went by, whatever contract the config has come to since."""
    planned = context["ti"].xcom_pull(task_ids="plan")
    return str(planned["model"]) if planned else spec.served_name


def _checkpoint(context: Context, spec: ModelSpec, version: int) -> str | None:
    """Return the checkpoint that the run names, else what its asset event says, else None: the spec's own."""
    extra = _newest_asset_extra(context)
    named = context["params"]["checkpoint"] or extra.get("checkpoint")
    template = spec.checkpoint_template
    wanted = [name for name in template_variables(template) if name.startswith(_EXTRA)]
    if named or not wanted:
        return named
    missing = [name for name in wanted if name.removeprefix(_EXTRA) not in extra]
    if missing:
        raise CheckpointMissing(template, f"no asset event of this run says {', '.join(missing)}")
    values = {name: str(extra[name.removeprefix(_EXTRA)]) for name in wanted}
    return render_template(template, {"date": f"{date_of(version):%Y-%m-%d}", "version": str(version), **values})


def _sha256(context: Context, spec: ModelSpec) -> str | None:
    """Return the sha256 that the run names, else what its asset event says, where the config leaves it to them."""
    key = spec.source.pinned_by
    if key is None:
        return None
    named = context["params"].get("sha256") or _newest_asset_extra(context).get(key)
    return None if named is None else str(named)


def _newest_asset_extra(context: Context) -> dict[str, Any]:
    events = [event for events in context["triggering_asset_events"].values() for event in events]
    newest = max(events, key=lambda event: event.timestamp, default=None)
    return dict(newest.extra or {}) if newest else {}


def training_date(run: DagRunProtocol, named: str | None) -> str:
    """Return the date of a training run, YYYY-MM-DD: the named one, else that of its logical date in UTC."""
    return named or f"{date_of(version_of(run.logical_date or run.run_after)):%Y-%m-%d}"
