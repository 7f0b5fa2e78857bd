"""Airflow's REST API, as much of it as the demo needs; its command line costs seconds a call."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from sandbox.errors import SandboxError

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_POLL_S = 0.7
_TIMEOUT_S = 30
_PATIENCE_S = 3 * _TIMEOUT_S
_CONFLICT, _SERVER_ERROR = 409, 500


@dataclass(frozen=True)
class TaskChange:
    """A task that entered another state; `seconds` is how long it has taken so far, waiting included."""

    task: str
    state: str
    seconds: float | None


class AirflowRest:
    """One Airflow without a login, on loopback."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """
        Call the API and return its JSON; a question is asked again while a busy Airflow cannot answer.

        So is what is `repeatable`: twice it does no more than once. Where Airflow then says that it is there already,
        the answer to the call before got lost; it returns None. Raises SandboxError with Airflow's own words.
        """
        until = time.monotonic() + (_PATIENCE_S if method == "GET" or repeatable else 0)
        repeated = False
        while True:
            try:
                return self._call_once(method, path, body)
            except urllib.error.HTTPError as error:
                if error.code == _CONFLICT and repeated and repeatable:
                    return None
                said = error.read().decode(errors="replace")[:500]
                if error.code < _SERVER_ERROR or time.monotonic() > until:
                    message = f"Airflow refused {method} {path}: {error.code} {said}"
                    raise SandboxError(message) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                if time.monotonic() > until:
                    message = f"Airflow at {self.url} did not answer: {error}. Is the sandbox up? 'make up' starts it."
                    raise SandboxError(message) from None
            repeated = True
            time.sleep(_POLL_S)

    def _call_once(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with self._opener.open(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)

    def unpause(self, dag: str, deadline_s: float = 90) -> None:
        """Let a DAG run, once Airflow has read its file. Raises SandboxError with the import errors when it has not."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                self.call("PATCH", f"/dags/{dag}", {"is_paused": False}, repeatable=True)
            except SandboxError as error:
                if "404" not in str(error) or time.monotonic() > until:
                    problems = [entry["stack_trace"] for entry in self.call("GET", "/importErrors")["import_errors"]]
                    message = f"Airflow does not know the DAG {dag}: {' '.join(problems) or error}"
                    raise SandboxError(message) from None
                time.sleep(_POLL_S)
            else:
                return

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run now and return its id, which is chosen here, so that asking again does not start another."""
        run = f"manual__{datetime.now(UTC).isoformat()}_{uuid.uuid4().hex[:8]}"
        order = {"dag_run_id": run, "logical_date": None, "conf": conf}
        self.call("POST", f"/dags/{dag}/dagRuns", order, repeatable=True)
        return run

    def run(self, dag: str, run: str) -> dict[str, Any]:
        """Return a run."""
        found: dict[str, Any] = self.call("GET", _run_path(dag, run))
        return found

    def run_that_followed(self, dag: str, run: str, consumer: str, deadline_s: float = 60) -> str:
        """
        Return the id of the run of `consumer` that an Asset event of a run has started.

        Raises SandboxError with what Airflow thinks of the consumer when it started none.
        """
        # /assets/events would name it, but Airflow 3.3.2 answers 500 there as long as that run is queued.
        since = self.run(dag, run)["start_date"]
        query = urlencode({"run_type": "asset_triggered", "run_after_gte": since, "order_by": "run_after"})
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            started = self.call("GET", f"/dags/{consumer}/dagRuns?{query}")["dag_runs"]
            if started:
                return str(started[0]["dag_run_id"])
            time.sleep(_POLL_S)
        none = f"the Asset event of {run} started no run of {consumer} within {deadline_s:g} s."
        message = f"{none} {self._said_of(consumer)}"
        raise SandboxError(message)

    def _said_of(self, dag: str) -> str:
        known = self.call("GET", f"/dags/{dag}")
        active = self.call("GET", f"/dags/{dag}/dagRuns?state=queued&state=running")["total_entries"]
        flags = [name for name in ("is_paused", "is_stale", "has_import_errors") if known[name]]
        return (
            f"Airflow says of it: {', '.join(flags) or 'nothing against it'}, {active} active runs, parsed at "
            f"{known['last_parsed_time']}. 'make logs NAME=airflow-scheduler' and NAME=airflow-dag-processor say more."
        )

    def follow(self, dag: str, run: str, told: Callable[[TaskChange], None], deadline_s: float = 1200) -> str:
        """Tell every change of a run's tasks until it ends; returns its state."""
        until = time.monotonic() + deadline_s
        states: dict[str, str] = {}
        while time.monotonic() < until:
            # The run first: when it has ended, the states of its tasks that are read after it are the last ones.
            state = str(self.run(dag, run)["state"])
            for change in self._changes(dag, run, states):
                told(change)
            if state in ("success", "failed"):
                return state
            time.sleep(_POLL_S)
        message = f"the run {run} of {dag} did not end within {deadline_s:g} s: {self.url}/dags/{dag}/runs/{run}"
        raise SandboxError(message)

    def task_states(self, dag: str, run: str) -> dict[str, str]:
        """Return the state of every task of a run."""
        return {task["task_id"]: str(task["state"]) for task in self._tasks(dag, run)}

    def page(self, dag: str, run: str) -> str:
        """Return the address of a run in the UI."""
        return f"{self.url}/dags/{dag}/runs/{quote(run, safe='')}"

    def _tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.call("GET", f"{_run_path(dag, run)}/taskInstances?limit=200")[
            "task_instances"
        ]
        return sorted(tasks, key=lambda task: str(task["end_date"] or task["start_date"] or "9"))

    def _changes(self, dag: str, run: str, states: dict[str, str]) -> Iterator[TaskChange]:
        for task in self._tasks(dag, run):
            name, state = task["task_id"], str(task["state"])
            if state == states.get(name) or state not in ENDED | {"running", "deferred"}:
                continue
            resumed = state == "running" and states.get(name) == "deferred"
            states[name] = state
            if not resumed:
                yield TaskChange(name, state, _seconds(task))


def _run_path(dag: str, run: str) -> str:
    return f"/dags/{dag}/dagRuns/{quote(run, safe='')}"


def _seconds(task: dict[str, Any]) -> float | None:
    if not task["start_date"] or not task["end_date"]:
        return None
    return (datetime.fromisoformat(task["end_date"]) - datetime.fromisoformat(task["start_date"])).total_seconds()
