"""What an event of the ledger says to people who were not looking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_release.report.timeline import sentence

_MOST_LETTERS = 1500
_TITLES = {
    "promoted": "promoted",
    "rolled_back": "rolled back",
    "held": "held: a person has to decide",
    "approval asked": "waits for an approval",
    "superseded": "superseded",
    "finished": "failed",
    "healed": "healed by the guard",
    "ended": "ended by the guard",
}
#: Events that may be a message, so that no other is read.
SPEAKING = frozenset(_TITLES)
_GOOD = {"promoted", "healed"}


@dataclass(frozen=True)
class Message:
    """One message: `id` is its event's and the same whenever it is sent; `occasions` are those of the spec."""

    id: str
    occasions: frozenset[str]
    title: str
    body: str
    good: bool


def message_of(event: Mapping[str, Any]) -> Message | None:
    """Return what an event says, or None for one that nobody has to hear of."""
    occasions = _occasions(event)
    if not occasions:
        return None
    model = str(event["id"]).partition("/")[0]
    version = event.get("rolled_back") or event.get("stable") or event.get("version")
    told = sentence(event)
    lines = [
        f"{told[:1].upper()}{told[1:]}"[:_MOST_LETTERS],
        *_what_next(event, model),
        f"By {event.get('by') or 'nobody named'}, in {event.get('run')}, at {event['at']}.",
        f"Event {event['id']}",
    ]
    title = f"{model} {version}: {_TITLES[event['what']]}"
    return Message(str(event["id"]), frozenset(occasions), title, "\n".join(lines), event["what"] in _GOOD)


def _occasions(event: Mapping[str, Any]) -> set[str]:
    what = event["what"]
    if what == "finished":
        return {"failed"} if not event.get("green") and event.get("outcome") != "rolled_back" else set()
    if what in ("healed", "ended"):
        return {"guard"}
    occasion = {"approval asked": "approval"}.get(what, what)
    by_guard = {"guard"} if event.get("by") == "guard" else set()
    return {occasion, *by_guard} if what in SPEAKING else set()


def _what_next(event: Mapping[str, Any], model: str) -> list[str]:
    if event["what"] in ("held", "approval asked"):
        return [
            f"Answer in Airflow (Required Actions), or: model-release approve {model} --reason '...', "
            f"extend {model} --seconds N --reason '...', abort {model} --reason '...'."
        ]
    return []
