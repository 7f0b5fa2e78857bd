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


#: YYYYMMDDHHMMSS, of a month, a day and a time that there are.
_VERSION = r"^20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d$"


def params_of(spec: ModelSpec) -> dict[str, Param]:
    """
    Return the fields of the trigger form; Airflow refuses a value that does not hold before it makes a run.

    A checkpoint that each release has to pin has a field for its sha256.
    """
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
            type=["null", "string", "integer"],
            pattern=_VERSION,
            minimum=20 * 10**12,
            maximum=21 * 10**12 - 1,
            title="Restore version",
            description="A sealed version (YYYYMMDDHHMMSS) to put back, instead of building a new one. It preempts a "
            "release that runs. A backfill of its date does the same",
        ),
        "reason": Param(
            "", type="string", title="Reason", description="Why; a restore and an emergency have to say it"
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Do all up to a proved canary without traffic, say what would follow, and take it away again",
        ),
        "emergency": Param(
            False,
            type="boolean",
            title="Emergency",
            description="Stable is bad: judge the canary by the objectives alone, and bake a quarter as long",
        ),
        "benchmark": Param(
            True,
            type="boolean",
            title="Benchmark",
            description="Off: no bench; the version is served as the config says, and proved on its fleet alone",
        ),
        "min_bake_s": Param(
            None,
            type=["null", "number"],
            minimum=0,
            title="Shortest bake (s)",
            description="Seconds that each stage lasts at least; empty for the config's",
        ),
        "max_bake_s": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            title="Longest bake (s)",
            description="Seconds after which a stage that is not decided is held, or ends; empty for the config's",
        ),
        **(pin if spec.source.pinned_by else {}),
    }


def defaults(spec: ModelSpec) -> dict[str, Any]:
    """Return what a run asks for of which nobody said anything."""
    return {name: param.value for name, param in params_of(spec).items()}
