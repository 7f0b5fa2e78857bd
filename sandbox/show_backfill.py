"""
Backfill as the way back, live: by REST against the running sandbox, under its clients.

Two past dates of the schedule are released, and the first is backfilled: its version is still warm as the standby.
Then a third is released, which takes the standby's place, and the second is backfilled: it has to be loaded. Told of
each way back: the seconds from the backfill's creation to 100 % on the old version, and where they went; what clients
saw; and whether the bytes that serve are the sealed ones.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from example_models import training
from model_release.environment import Environment
from model_release.errors import ReleaseError
from model_release.identity import version_of
from model_release.ledger.events import Events
from model_release.ledger.state import State
from model_release.repository.archive import Archive
from model_release.repository.store import ObjectStore
from sandbox.airflow_rest import AirflowRest
from sandbox.demo import DIGITS, Demo, connect, say, say_change
from sandbox.errors import SandboxError
from sandbox.traffic_report import read_records, summarise

_PATIENCE_S = 120
#: Airflow's answers while another backfill is not marked as complete, and while SQLite is locked.
_NOT_YET = (": 409 ", ": 503 ")
_SETTLED_S = 10


@dataclass(frozen=True)
class WayBack:
    """One backfill that put an old version back; all in seconds, `parts` since the backfill was created."""

    version: int
    reused_standby: bool
    seconds: float
    parts: list[tuple[str, float]]
    requests: int
    errors: int
    problems: list[str]


def main() -> int:
    """Print each way back; 0 when both came back without a client error and with the sealed bytes."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.show_backfill", description=__doc__)
    parser.add_argument("--warm-only", action="store_true", help="leave the way back without a warm standby out")
    only_warm = parser.parse_args().warm_only
    try:
        demo = connect(DIGITS)
        dates = past_slots(demo.state(), 2 if only_warm else 3)
        train(demo.environment, dates)
        for date in dates[:2]:
            released(demo, date)
        ways = [way_back(demo, dates[0])]
        if not only_warm:
            released(demo, dates[2])
            ways.append(way_back(demo, dates[1]))
    except (SandboxError, ReleaseError) as error:
        say(f"show-backfill: {error}")
        return 1
    for way in ways:
        for line in told(way):
            say(line)
    return 1 if any(way.problems for way in ways) else 0


def past_slots(state: State, count: int) -> list[datetime]:
    """Return so many past slots of the example's schedule, Sundays at 3:00 UTC, that were never released, in order."""
    known = {promotion.version for promotion in state.promotions} | {entry.version for entry in state.rejected}
    now = datetime.now(UTC)
    sunday = (now - timedelta(days=(now.weekday() + 1) % 7)).replace(hour=3, minute=0, second=0, microsecond=0)
    slots: list[datetime] = []
    while len(slots) < count:
        sunday -= timedelta(days=7)
        if version_of(sunday) not in known:
            slots.append(sunday)
    return slots[::-1]


def train(environment: Environment, dates: list[datetime]) -> None:
    """Write the training data, and a checkpoint of each date; no Asset event starts a release."""
    training.publish_training_data(environment)
    for date in dates:
        training.retrain_digits(f"{date:%Y-%m-%d}", environment)


def order(date: datetime, conf: dict[str, Any], since: datetime | None = None) -> dict[str, Any]:
    """Return what Airflow is asked for: a backfill of a date, or of all dates since another."""
    return {
        "dag_id": DIGITS.release_dag,
        "from_date": (since or date).isoformat(),
        "to_date": date.isoformat(),
        "reprocess_behavior": "completed",
        "dag_run_conf": conf,
        "max_active_runs": 2,
        "run_backwards": False,
    }


def backfill(rest: AirflowRest, date: datetime, conf: dict[str, Any], since: datetime | None = None) -> dict[str, Any]:
    """Create a backfill; it is waited for one before it, or for SQLite, which serves one writer at a time."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            created: dict[str, Any] = rest.call("POST", "/backfills", order(date, conf, since))
        except SandboxError as error:
            if not any(code in str(error) for code in _NOT_YET) or time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return created


def run_of(rest: AirflowRest, date: datetime) -> str:
    """Return the id of the run of a date."""
    found = rest.call("GET", f"/dags/{DIGITS.release_dag}/dagRuns?limit=100&order_by=-run_after")["dag_runs"]
    return next(
        str(run["dag_run_id"])
        for run in found
        if run["logical_date"] and datetime.fromisoformat(run["logical_date"]) == date
    )


def released(demo: Demo, date: datetime) -> None:
    """Release the checkpoint of a date that was never sealed, by a backfill of it. Raises SandboxError unless green."""
    say(f"\nThe version of {date:%Y-%m-%d} is built and released.")
    backfill(demo.rest, date, {"reason": "show-backfill: a version to go back to"})
    run = run_of(demo.rest, date)
    state = demo.rest.follow(DIGITS.release_dag, run, say_change)
    if state != "success":
        message = f"the release of {date:%Y-%m-%d} is {state}: {demo.rest.page(DIGITS.release_dag, run)}"
        raise SandboxError(message)


def way_back(demo: Demo, date: datetime) -> WayBack:
    """Backfill a date whose version was live, and tell how its version came back."""
    say(f"\nThe version of {date:%Y-%m-%d} is put back by a backfill of its date.")
    created = backfill(demo.rest, date, {"reason": "show-backfill: the way back"})
    began = datetime.fromisoformat(created["created_at"])
    run = run_of(demo.rest, date)
    state = demo.rest.follow(DIGITS.release_dag, run, say_change)
    await_clients()
    version, store = version_of(date), ObjectStore(demo.environment.s3)
    events = [
        event
        for event in Events(store, DIGITS.model).read()
        if str(event.get("run", "")).startswith(f"{run}#") and datetime.fromisoformat(event["at"]) >= began
    ]
    shifted = next((event for event in events if event["what"] == "shifted" and event["stage"] == 100), None)
    deployed = next((event for event in events if event["what"] == "deployed"), {})
    seen = summarise(read_records(demo.home.traffic / f"{DIGITS.model}.csv", began.timestamp()))
    problems = [] if state == "success" else [f"the run is {state}: {demo.rest.page(DIGITS.release_dag, run)}"]
    if seen.errors:
        problems.append(f"clients saw {seen.errors} errors")
    if set(demo.served_versions()) != {str(version)}:
        problems.append(f"the router answers with {demo.served_versions()}")
    problems += list(bytes_differ(demo, version))
    return WayBack(
        version=version,
        reused_standby=bool(deployed.get("reused_standby")),
        seconds=_since(began, shifted["at"]) if shifted else float("nan"),
        parts=list(parts(demo.rest, run, began)),
        requests=seen.requests,
        errors=seen.errors,
        problems=problems,
    )


def parts(rest: AirflowRest, run: str, began: datetime) -> Iterator[tuple[str, float]]:
    """Say when the run and each of its tasks up to the shift began and ended."""
    yield "the scheduler starts the run", _since(began, rest.run(DIGITS.release_dag, run)["start_date"])
    path = f"/dags/{DIGITS.release_dag}/dagRuns/{run.replace('+', '%2B')}/taskInstances?limit=200"
    tasks = {task["task_id"]: task for task in rest.call("GET", path)["task_instances"]}
    for name in ("plan", "build_or_restore", "deploy", "first_stage", "canary_100.shift"):
        if tasks[name]["start_date"] and tasks[name]["end_date"]:
            yield f"{name} begins", _since(began, tasks[name]["start_date"])
            yield f"{name} ends", _since(began, tasks[name]["end_date"])


def bytes_differ(demo: Demo, version: int) -> Iterator[str]:
    """Say which of the served ONNX files are not the sealed ones, byte for byte."""
    store, state = ObjectStore(demo.environment.s3), demo.state()
    if state.stable is None or state.stable.version != version:
        yield f"the ledger's stable is {state.stable}"
        return
    manifest = Archive(store, DIGITS.model).require(version)
    for file in [name for name in manifest.files if name.startswith("model.onnx")]:
        key = f"serving/default/{state.stable.fleet}/{DIGITS.model}/{version}/{file}"
        if hashlib.sha256(store.get(key)[0]).hexdigest() != manifest.files[file].sha256:
            yield f"{key} is not as it was sealed"


def await_clients() -> None:
    """Let the clients' records of the last moments be written."""
    time.sleep(_SETTLED_S)


def told(way: WayBack) -> Iterator[str]:
    """Say in lines what a way back was like."""
    how = "a warm standby" if way.reused_standby else "no warm standby"
    yield f"\nback to {way.version}, with {how}: {way.seconds:.1f} s from the backfill's creation to 100 %"
    yield from (f"  {seconds:6.1f} s  {what}" for what, seconds in way.parts)
    yield f"  clients: {way.requests} requests, {way.errors} errors"
    yield from (f"  NOT AS ASKED: {problem}" for problem in way.problems)
    if not way.problems:
        yield "  the bytes that serve are the sealed ones"


def _since(began: datetime, at: str) -> float:
    return (datetime.fromisoformat(at) - began).total_seconds()


if __name__ == "__main__":
    sys.exit(main())
