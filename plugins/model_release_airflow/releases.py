"""Which release a DAG run is: the one place where Airflow's run becomes the library's Release."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.types import DagRunProtocol

from model_release.asked import spec_as_asked
from model_release.errors import AskedWrongly, CheckpointMissing
from model_release.identity import Kind, Mode, Release, date_of, version_of
from model_release.spec import ModelSpec, render_template, template_variables
from model_release_airflow.backfills import BACKFILL, Backfill
from model_release_airflow.schedules import defaults

_EXTRA = "asset.extra."
#: An order whose run starts this soon is carried out whatever was promoted since: no one can have forgotten it.
_FRESH = timedelta(minutes=15)

KindOfDate = Callable[[str, int], Kind]


def release_of(context: Context) -> Release:
    """
    Return the release that plan has made of this run: of its try, also for a later task that is cleared by itself.

    Raises AirflowFailException when plan was marked by hand instead of being run.
    """
    return Release.from_dict(planned_of(context["ti"])["release"])


def planned_of(ti: Any) -> dict[str, Any]:
    """Return what plan came to; raises as `release_of`."""
    planned: dict[str, Any] | None = ti.xcom_pull(task_ids="plan")
    if planned is None:
        message = "plan has not run: its state was set by hand. Clear plan and all that follows it."
        raise AirflowFailException(message)
    return planned


def holder_of(context: Context, spec: ModelSpec) -> Release:
    """Return a release that names the run's try and no more: what plan may have claimed before it was refused."""
    run = context["dag_run"]
    version = version_of(run.logical_date or run.run_after)
    return Release(spec.served_name, version, Kind.BUILD, run.run_id, run.clear_number or 0)


def asked_of(context: Context, spec: ModelSpec, kind_of_date: KindOfDate) -> Release:
    """
    Return what is asked of a run, for plan.

    A run that names `restore_version` restores it. The run of a backfill restores its date's version if it is sealed;
    every other run builds the version of its date. Raises AskedWrongly, AirflowSkipException for a date that the
    backfill does not mean, CheckpointMissing when the checkpoint's template names what no asset event has said.
    """
    run, params = context["dag_run"], context["params"]
    if run.run_type == BACKFILL:
        release = _of_backfill(context, spec, kind_of_date)
    else:
        restored, version = params["restore_version"], version_of(run.logical_date or run.run_after)
        kind = Kind.BUILD if restored is None else Kind.RESTORE
        asked_at = None if restored is None else _unless_fresh(run.run_after, cleared=bool(run.clear_number))
        by = run.triggering_user_name or str(run.run_type)
        release = _release(
            context, spec, params, kind=kind, version=int(restored or version), by=by, backfill=False, asked_at=asked_at
        )
    spec_as_asked(spec, release)
    return release


def _of_backfill(context: Context, spec: ModelSpec, kind_of_date: KindOfDate) -> Release:
    """
    Return the release of a backfill's newest date. Its params are the record's own: those that Airflow has kept on the
    run may be of an order that somebody gave for something else.
    """
    run, backfill = context["dag_run"], Backfill.of(context["dag_run"].conf)
    if backfill is None or run.logical_date is None:
        message = (
            "the scheduler did not say what this backfill asked for, since it has not loaded "
            "plugins/model_release_plugin.py. Start the scheduler with the project's plugins folder and clear this run."
        )
        raise AirflowFailException(message)
    if run.logical_date < backfill.newest:
        message = (
            f"skipped: {backfill.who} asks for {backfill.dates} dates, and only the newest of them, "
            f"{backfill.newest:%Y-%m-%d %H:%M} UTC, is put in front of the traffic. To restore this date instead, "
            "create a backfill of this date alone."
        )
        raise AirflowSkipException(message)
    params = {**defaults(spec), **backfill.conf}
    version = version_of(run.logical_date)
    if params["restore_version"] not in (None, version, str(version)):
        why = f"a backfill puts back the version of its date, {version}, not {params['restore_version']}"
        raise AskedWrongly(spec.served_name, f"{why}: for that one, backfill its date or trigger a run by hand")
    cleared = (run.clear_number or 0) > backfill.clear_number
    return _release(
        context,
        spec,
        params,
        kind=kind_of_date(spec.served_name, version),
        version=version,
        by=backfill.who,
        backfill=True,
        asked_at=_unless_fresh(backfill.created, cleared=cleared),
    )


def _release(context: Context, spec: ModelSpec, params: Any, *, kind: Kind, version: int, **facts: Any) -> Release:
    if params["dry_run"] and params["emergency"]:
        raise AskedWrongly(spec.served_name, "a dry run moves no traffic, so it helps in no emergency: choose one")
    mode = Mode.DRY_RUN if params["dry_run"] else Mode.EMERGENCY if params["emergency"] else Mode.NORMAL
    run = context["dag_run"]
    restores = kind is Kind.RESTORE
    return Release(
        model=spec.served_name,
        version=version,
        kind=kind,
        run_id=run.run_id,
        clear_number=run.clear_number or 0,
        checkpoint=params["checkpoint"] if restores else _checkpoint(context, spec, version, params["checkpoint"]),
        reason=params["reason"],
        sha256=None if restores else _sha256(context, spec, params),
        mode=mode,
        min_bake_s=params["min_bake_s"],
        max_bake_s=params["max_bake_s"],
        benchmark=params["benchmark"],
        **facts,
    )


def _unless_fresh(asked_at: datetime, *, cleared: bool) -> str | None:
    """Return since when an order lies there, None if this is its first try and it was given just now."""
    return asked_at.isoformat() if cleared or datetime.now(UTC) - asked_at > _FRESH else None


def _checkpoint(context: Context, spec: ModelSpec, version: int, named: str | None) -> str | None:
    """Return the checkpoint that the run names, else what its asset event says, else None: the spec's own."""
    extra = _newest_asset_extra(context)
    named = named or extra.get("checkpoint")
    template = spec.checkpoint_template
    wanted = [name for name in template_variables(template) if name.startswith(_EXTRA)]
    if named or not wanted:
        return named
    missing = [name for name in wanted if name.removeprefix(_EXTRA) not in extra]
    if missing:
        raise CheckpointMissing(template, f"no asset event of this run says {', '.join(missing)}")
    values = {name: str(extra[name.removeprefix(_EXTRA)]) for name in wanted}
    return render_template(template, {"date": f"{date_of(version):%Y-%m-%d}", "version": str(version), **values})


def _sha256(context: Context, spec: ModelSpec, params: Any) -> str | None:
    """Return the sha256 that the run names, else what its asset event says, where the config leaves it to them."""
    key = spec.source.pinned_by
    if key is None:
        return None
    named = params.get("sha256") or _newest_asset_extra(context).get(key)
    return None if named is None else str(named)


def _newest_asset_extra(context: Context) -> dict[str, Any]:
    events = [event for events in context["triggering_asset_events"].values() for event in events]
    newest = max(events, key=lambda event: event.timestamp, default=None)
    return dict(newest.extra or {}) if newest else {}


def training_date(run: DagRunProtocol, named: str | None) -> str:
    """Return the date of a training run, YYYY-MM-DD: the named one, else that of its logical date in UTC."""
    return named or f"{date_of(version_of(run.logical_date or run.run_after)):%Y-%m-%d}"
