"""When a model is released, and what a person may ask for in the trigger form."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable, Param

from model_release.spec import ModelSpec


def cron_of(line: str) -> CronTriggerTimetable:
    """
    Return the timetable of a cron line in UTC.

    A DAG that is unpaused for the first time waits for the line's next instant. Airflow 3.3 would otherwise run the
    last one at once when it is less than a tenth of the interval ago: 2.4 hours of a day.
    """
    return CronTriggerTimetable(line, timezone="UTC", run_immediately=timedelta(0))


def schedule_of(spec: ModelSpec) -> Any:
    """Return the schedule: the spec's cron line in UTC, an event of any of its assets, both, or None."""
    cron = cron_of(spec.schedule) if spec.schedule else None
    if not spec.triggered_by:
        return cron
    assets = AssetAny(*(Asset(uri) for uri in spec.triggered_by))
    return AssetOrTimeSchedule(timetable=cron, assets=assets) if cron else assets


def params_of(spec: ModelSpec) -> dict[str, Param]:
    """Return the fields of the trigger form; a checkpoint that each release has to pin has a field for its sha256."""
    pin = {
        "sha256": Param(
            None,
            type=["null", "string"],
            pattern="^[0-9a-f]{64}$",
            title="sha256 of the checkpoint",
            description="The file is a program that runs when it is loaded, and only the file of this sha256 is",
        )
    }
    return {
        "checkpoint": Param(
            None,
            type=["null", "string"],
            pattern="^(s3|file)://",
            title="Checkpoint",
            description="URI of the checkpoint to release, s3:// or file://; empty for the one that the config names",
        ),
        "restore_version": Param(
            None,
            type=["null", "integer"],
            minimum=10**13,
            maximum=10**14 - 1,
            title="Restore version",
            description="A sealed version (YYYYMMDDHHMMSS) to put back, instead of building a new one",
        ),
        "reason": Param("", type="string", title="Reason", description="Why; a restore must say it"),
        **(pin if spec.source.pinned_by else {}),
    }
