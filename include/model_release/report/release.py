"""
The report of a release: what was asked, what happened, every verdict with its numbers.

It is worked out from the ledger and the archive alone, so it can be had of a release that runs, and again of any that
has ended; what is no longer there (a pruned version's files) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from model_release.errors import ReportMissing, VersionNotFound
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks, StageLooks, as_name
from model_release.ledger.state import StateFile
from model_release.parity.report import ParityReport
from model_release.repository.archive import Archive, Part
from model_release.repository.store import KeyAbsent, ObjectStore

RUNNING, RELEASED, ROLLED_BACK, FAILED, SUPERSEDED = "running", "released", "rolled back", "failed", "superseded"
#: What others do to a release is an event of theirs, and belongs to its story all the same.
_OF_OTHERS = {"rolled_back", "ended", "superseded"}
PARITY, BENCHMARK = "parity.json", "benchmark.json"


class Stage(BaseModel):
    """A stage of the canary: its looks (`t` in seconds since the release began) and what it was judged."""

    stage: int
    started_at: datetime
    seconds: float
    requests: dict[str, int]
    errors: dict[str, int]
    looks: list[dict[str, Any]]
    verdict: dict[str, Any] | None


class ReleaseReport(BaseModel):
    """All that is known of one release; `outcome` is running, released, rolled back, failed or superseded."""

    schema_version: int = 1
    model: str
    version: int
    kind: str
    run: str
    by: str
    reason: str
    checkpoint: str
    fleet: str | None
    stages_asked: list[int]
    first_release: bool
    stable_before: int | None
    lines: list[str]
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    why: str
    stages: list[Stage]
    events: list[dict[str, Any]]
    parity: dict[str, Any] | None = None
    """parity.json, as the version has it in the archive."""
    benchmark: dict[str, Any] | None = None
    """benchmark.json, the same."""
    accuracy: dict[str, Any] | None = None
    source: dict[str, Any] | None = None

    @property
    def seconds(self) -> float | None:
        """How long the release took; None while it runs."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


def assemble(store: ObjectStore, model: str, run: str | None = None, version: int | None = None) -> ReleaseReport:
    """
    Work out the report of a run (`<run id>#<clear number>`), else of a version's newest release, else of the newest.

    Raises ReportMissing when the ledger knows no such release.
    """
    events = _events(Events(store, model), store, model, run)
    begun = [event for event in events if _begins(event, run, version)]
    if not begun:
        raise ReportMissing(model, run, version)
    first = begun[0] if run is not None else _first_of(begun)
    own = _story(events, first)
    planned: Mapping[str, Any] = next((event for event in own if event["what"] == "planned"), {})
    outcome, why = _outcome(own)
    ended = outcome != RUNNING
    version = int(first["version"])
    looks = _looks(store, model, version, str(first["run"]), own)
    return ReleaseReport(
        model=model,
        version=version,
        kind=first["kind"],
        run=first["run"],
        by=first["by"],
        reason=planned.get("reason", ""),
        checkpoint=planned.get("checkpoint", ""),
        fleet=planned.get("fleet"),
        stages_asked=planned.get("stages", []),
        first_release=planned.get("first_release", False),
        stable_before=planned.get("stable"),
        lines=planned.get("lines", []),
        started_at=planned.get("started_at", first["at"]),
        ended_at=own[-1]["at"] if ended else None,
        outcome=outcome,
        why=why,
        stages=looks,
        events=own,
        **_of_archive(store, model, version),
    )


def key_of(model: str, version: int, run: str, suffix: str) -> str:
    """Return where the ledger keeps a report."""
    return f"ledger/{model}/reports/{version}/{as_name(run)}{suffix}"


def _events(events: Events, store: ObjectStore, model: str, run: str | None) -> list[dict[str, Any]]:
    """Return the model's events, of a run only those since it began if the ledger still says when that was."""
    running = StateFile(store, model).read().release
    since = running.epoch if run is not None and running is not None and running.holder == run else 0
    return events.read(since)


def _begins(event: Mapping[str, Any], run: str | None, version: int | None) -> bool:
    """Say whether an event is of a release that is asked for; what an abort or the guard does is no release."""
    if run is not None:
        return bool(event.get("run") == run)
    asked = version is None or event.get("version") == version
    return asked and event["what"] in ("planned", "failed") and "kind" in event


def _first_of(begun: Sequence[dict[str, Any]]) -> dict[str, Any]:
    newest = begun[-1]["run"]
    return next(event for event in begun if event["run"] == newest)


def _story(events: Sequence[dict[str, Any]], first: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the release's own events, and what others did to it until its version was planned again."""
    own, over = [], False
    for event in events[events.index(first) :]:
        if event.get("run") == first["run"]:
            own.append(event)
            continue
        over = over or (event["what"] == "planned" and event.get("version") == first["version"])
        about = {event.get("rolled_back"), event.get("superseded_version"), event.get("ended_version")}
        if not over and event["what"] in _OF_OTHERS and first["version"] in about:
            own.append(event)
    return own


def _outcome(own: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return how it ended and why, by the newest event that says so."""
    for event in reversed(own):
        match event["what"]:
            case "finished" if event["green"]:
                return RELEASED, ""
            case "rolled_back":
                return ROLLED_BACK, event.get("reason", "")
            case "superseded":
                return SUPERSEDED, event.get("reason", "")
            case "ended":
                return FAILED, event.get("reason", "")
    red = next((event for event in reversed(own) if event["what"] == "finished"), None)
    if red is not None:
        return FAILED, red.get("reason", "")
    return RUNNING, ""


def _looks(store: ObjectStore, model: str, version: int, run: str, own: Sequence[dict[str, Any]]) -> list[Stage]:
    """Return the stages in the order in which the traffic was shifted to them."""
    kept = Looks(store, model, version, run)
    stages = list(dict.fromkeys(int(event["stage"]) for event in own if event["what"] == "shifted"))
    found = [(kept.read(stage)[0], stage) for stage in stages]
    return [_stage(looks, own) for looks, _ in found if looks is not None]


def _stage(looks: StageLooks, own: Sequence[dict[str, Any]]) -> Stage:
    judged = next((e for e in reversed(own) if e["what"] == "judged" and e.get("stage") == looks.stage), None)
    ends = datetime.fromisoformat(judged["at"]) if judged else None
    counted = {arm: [look.get(arm) or {} for look in looks.looks] for arm in ("canary", "stable")}
    return Stage(
        stage=looks.stage,
        started_at=looks.started_at,
        seconds=(ends - looks.started_at).total_seconds() if ends else 0.0,
        requests={arm: sum(each.get("requests", 0) for each in each_look) for arm, each_look in counted.items()},
        errors={arm: sum(each.get("errors", 0) for each in each_look) for arm, each_look in counted.items()},
        looks=[_counts(look) for look in looks.looks],
        verdict=looks.verdict,
    )


def _counts(look: Mapping[str, Any]) -> dict[str, Any]:
    """Return a look without its latency buckets, which are many and stay in the ledger."""
    arms = {arm: look.get(arm) or {} for arm in ("canary", "stable")}
    said = {arm: {name: each.get(name, 0) for name in ("requests", "errors")} for arm, each in arms.items()}
    return {"t": look["t"], "note": look.get("note", ""), **said}


def _of_archive(store: ObjectStore, model: str, version: int) -> dict[str, Any]:
    """Return what the archive has of a version."""
    archive = Archive(store, model)
    try:
        base = archive.require(version)
    except VersionNotFound:
        return {"parity": _json(store, archive, version, "base", PARITY)}
    tuned = archive.sealed(version, "tuned")
    accuracy = {name: value for name, value in tuned.summary.items() if name.startswith("accuracy")} if tuned else {}
    return {
        "parity": _json(store, archive, version, "base", PARITY),
        "benchmark": _json(store, archive, version, "tuned", BENCHMARK) if tuned else None,
        "accuracy": accuracy if accuracy.get("accuracy") is not None else None,
        "source": base.source.model_dump(mode="json"),
    }


def _json(store: ObjectStore, archive: Archive, version: int, part: Part, name: str) -> dict[str, Any] | None:
    key = archive.find(version, part, name)
    if key is None:
        return None
    try:
        body, _ = store.get(key)
        values: dict[str, Any] = json.loads(body)
    except (KeyAbsent, ValueError):
        return None
    return values


def parity_of(report: ReleaseReport) -> ParityReport | None:
    """Return the parity report, or None where there is none that this version of the library reads."""
    if report.parity is None:
        return None
    try:
        return ParityReport.model_validate(report.parity)
    except ValidationError:
        return None
