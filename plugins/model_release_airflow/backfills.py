"""
What a backfill asked for, told to its runs.

Airflow keeps a backfill (who, when, which dates, with which conf) in a record that a task cannot read, and a run that
it clears in place keeps its old conf if the backfill gives none. The scheduler can read the record: as it starts a run
of a backfill, the listener here writes what the record says into the run's conf, under BACKFILL.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from airflow.listeners import hookimpl

BACKFILL = "backfill"
"""The key of a run's conf, and the run type, of a backfill."""
RELEASES = "release_"
"""How the id of a DAG begins that releases a model; the model's name follows."""


@dataclass(frozen=True)
class Backfill:
    """
    One backfill, as its runs have to know it; dates are ISO 8601.

    `clear_number` is the run's at its first start for this backfill: a higher one is a run that was cleared since.
    """

    id: int
    by: str | None
    created_at: str
    newest_date: str
    dates: int
    conf: dict[str, Any]
    clear_number: int

    @classmethod
    def of(cls, conf: dict[str, Any] | None) -> Backfill | None:
        """Read what the scheduler wrote into a run's conf, None when it wrote nothing."""
        told = (conf or {}).get(BACKFILL)
        return cls(**told) if isinstance(told, dict) else None

    @property
    def who(self) -> str:
        """Who asked, in words."""
        return f"backfill {self.id}" + (f" by {self.by}" if self.by else "")

    @property
    def created(self) -> datetime:
        """When it was asked for."""
        return datetime.fromisoformat(self.created_at)

    @property
    def newest(self) -> datetime:
        """The newest of its dates, whether Airflow runs it again or not."""
        return datetime.fromisoformat(self.newest_date)


@hookimpl
def on_dag_run_running(dag_run: Any) -> None:
    """Tell a run of a backfill of a release what was asked; called in the scheduler, inside its transaction."""
    record = dag_run.backfill if dag_run.dag_id.startswith(RELEASES) and dag_run.run_type == BACKFILL else None
    if record is None:
        return
    conf, before = dag_run.conf or {}, Backfill.of(dag_run.conf)
    again = before is not None and before.id == record.id
    dates = {asked.logical_date for asked in record.backfill_dag_run_associations if asked.logical_date is not None}
    dates |= _slots(dag_run, record)
    told = Backfill(
        id=record.id,
        by=record.triggering_user_name,
        created_at=record.created_at.isoformat(),
        newest_date=max(dates, default=dag_run.logical_date).isoformat(),
        dates=len(dates),
        conf={name: value for name, value in (record.dag_run_conf or {}).items() if name != BACKFILL},
        clear_number=before.clear_number if before is not None and again else dag_run.clear_number,
    )
    dag_run.conf = {**conf, BACKFILL: asdict(told)}


def _slots(dag_run: Any, record: Any) -> set[datetime]:
    """
    Return the dates that the schedule has in the backfill's range, as Airflow finds them when it creates its runs.

    On SQLite Airflow commits each run alone: the first may start before the record names the others.
    """
    dag = _newest_dag(dag_run)
    slots = dag.iter_dagrun_infos_between(record.from_date, record.to_date) if dag is not None else ()
    return {slot.logical_date for slot in slots if slot.data_interval and slot.data_interval.end < record.created_at}


def _newest_dag(dag_run: Any) -> Any:
    """Return the DAG as it is scheduled now, whose dates a backfill has; a run that it clears may be of an older."""
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy.orm import object_session

    return SerializedDagModel.get_dag(dag_run.dag_id, session=object_session(dag_run))
