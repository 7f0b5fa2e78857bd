"""What happened to a release, a sentence an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_release.report.numbers import figure

Event = Mapping[str, Any]


def sentence(event: Event) -> str:
    """Return what an event says to a person; one that this version does not know says its own name."""
    told = _SENTENCES.get(event["what"])
    return told(event) if told else str(event["what"]).replace("_", " ")


def _planned(event: Event) -> str:
    stable = event.get("stable")
    return f"planned: fleet {event['fleet']}, stages {_listed(event['stages'])}" + (
        f"; stable was {stable}" if stable else ""
    )


def _exported(event: Event) -> str:
    return f"exported to ONNX ({figure(event.get('onnx_bytes', 0) / 1e6)} MB)"


def _benchmarked(event: Event) -> str:
    found = event.get("benchmark") or {}
    if not found:
        return "measured on bench"
    return (
        f"measured on bench: {figure(found.get('throughput_per_s'))} requests a second at concurrency "
        f"{found.get('concurrency')}, p99 {figure(found.get('p99_ms'))} ms"
    )


def _deployed(event: Event) -> str:
    warm = "the standby, still loaded" if event.get("reused_standby") else "loaded"
    return f"on fleet {event['fleet']}, {warm} and proved on {len(event.get('proofs') or [])} replicas"


def _judged(event: Event) -> str:
    return f"{_stage(event['stage'])} judged {event['verdict']}, so: {event['action']}. {event.get('reason', '')}"


def _rolled_back(event: Event) -> str:
    rejected = ", and rejected" if event.get("rejected") else ""
    quiet = event.get("weight_0_after_s")
    took = f", no request reached it {figure(quiet)} s later" if quiet is not None else ""
    said = event.get("reason", "")
    return f"version {event.get('rolled_back')} taken back by {event.get('by')}{took}{rejected}: {said}"


def _decided(event: Event) -> str:
    about = "the approval" if event.get("subject") == "approval" else f"the held stage {event.get('subject')} %"
    verb = {"advance": "yes", "roll_back": "no", "extend": f"wait {figure(event.get('seconds'))} s more"}
    return f"{event.get('by')} on {about}: {verb.get(event['verb'], event['verb'])}. {event.get('reason', '')}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _finished(event: Event) -> str:
    if event.get("green"):
        return f"finished: version {event.get('stable')} serves, as was asked"
    return f"finished, not as was asked: {event.get('reason', '')}"


def _shifted(event: Event) -> str:
    if event["stage"]:
        return f"{event['stage']} % of the traffic to the canary"
    return f"shadow: {_listed(list((event.get('mirrored') or {}).values()))} of the requests mirrored to the canary"


def _listed(stages: list[int]) -> str:
    return ", ".join(_stage(stage) for stage in stages)


def _stage(stage: int) -> str:
    return f"{stage} %" if stage else "shadow"


_SENTENCES = {
    "planned": _planned,
    "exported": _exported,
    "validated": lambda _: "proved equal to the PyTorch model",
    "published": lambda event: f"sealed in the archive ({len(event.get('files') or [])} files)",
    "benchmarked": _benchmarked,
    "deployed": _deployed,
    "shifted": _shifted,
    "withdrawn": lambda event: f"the canary has no weight: {event.get('reason', '')}",
    "returned": lambda event: f"the canary has its {event['stage']} % again: {event.get('reason', '')}",
    "held": lambda event: f"{event['stage']} % held for a person until {event['until']}: {event.get('reason', '')}",
    "judged": _judged,
    "approval asked": lambda event: f"waits for an approval {_words(event['point'])}, until {event['until']}",
    "decided": _decided,
    "queued": lambda event: f"waits for its turn at the fleet pair {event['pair']}, behind {event['behind']}",
    "promoted": lambda event: f"version {event['stable']} is stable now; {event.get('standby') or 'nothing'} stands by",
    "rolled_back": _rolled_back,
    "nothing to roll back": lambda event: f"nothing to take back: {event.get('reason', '')}",
    "failed": lambda event: f"{event.get('phase')} failed: {event.get('error')}",
    "ended": lambda event: f"ended by {event.get('by')}: {event.get('reason', '')}",
    "superseded": lambda event: f"superseded: {event.get('reason', '')}",
    "finished": _finished,
}
