"""report: what a release leaves for people, in the ledger: one page, and the same as JSON."""

from __future__ import annotations

import logging
import re
from contextlib import suppress

from model_release.environment import Environment
from model_release.errors import ReportMissing
from model_release.ledger.events import Events
from model_release.ledger.looks import as_name
from model_release.ledger.state import StateFile
from model_release.report.release import ReleaseReport, assemble, key_of
from model_release.repository.store import KeyAbsent, ObjectStore
from model_release.spec import ModelSpec, served_name

HTML, JSON = ".html", ".json"

log = logging.getLogger(__name__)


def leave(model: str, run: str, environment: Environment) -> None:
    """
    Write the report of a run into the ledger, as it stands.

    It is for people alone: whatever keeps it from being written ends no release, and `newest` works it out again.
    """
    try:
        store = ObjectStore(environment.s3)
        report = assemble(store, model, run)
        for suffix, body in ((JSON, report.model_dump_json(indent=1)), (HTML, page_of(report))):
            store.put(key_of(model, report.version, run, suffix), body.encode())
    except Exception as error:
        log.warning("no report of %s in %s was left: %s", model, run, error)


def newest(spec: ModelSpec, run_id: str, environment: Environment) -> str:
    """
    Return the page of a run's newest try: the one that it left, else one of how it stands now.

    The run may have released the model under an earlier contract. Raises ReportMissing.
    """
    store = ObjectStore(environment.s3)
    for model in (served_name(spec.name, contract) for contract in range(spec.contract, 0, -1)):
        running = StateFile(store, model).read().release
        if running is not None and running.run_id == run_id:
            return _page(store, model, running.holder)
        left = _left(store, model, run_id)
        if left is not None:
            return left
        holder = next((run for run in reversed(_runs(store, model)) if run.rpartition("#")[0] == run_id), None)
        if holder is not None:
            return _page(store, model, holder)
    raise ReportMissing(spec.served_name, run_id, None)


def _left(store: ObjectStore, model: str, run_id: str) -> str | None:
    """Return the page that a run's newest try left in the ledger."""
    name = re.compile(rf"/{re.escape(as_name(run_id))}-(\d+){re.escape(HTML)}$")
    found = [
        (int(match[1]), entry.key)
        for entry in store.objects(f"ledger/{model}/reports/")
        if (match := name.search(entry.key))
    ]
    return store.get(max(found)[1])[0].decode() if found else None


def _runs(store: ObjectStore, model: str) -> list[str]:
    return [str(event.get("run", "")) for event in Events(store, model).read()]


def _page(store: ObjectStore, model: str, run: str) -> str:
    report = assemble(store, model, run)
    if report.ended_at is not None:
        with suppress(KeyAbsent):
            return store.get(key_of(model, report.version, run, HTML))[0].decode()
    return page_of(report)


def page_of(report: ReleaseReport) -> str:
    """Return a report as one HTML page."""
    from model_release.report.release_page import release_page  # Altair takes a second to import

    return release_page(report)
