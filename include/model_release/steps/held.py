"""held: what a person is asked about a stage whose looks do not decide it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from model_release.environment import Environment
from model_release.identity import Release
from model_release.report.evidence import evidence
from model_release.report.release import assemble
from model_release.repository.store import ObjectStore


def question(release: Release, environment: Environment, stage: int, look: dict[str, Any]) -> dict[str, Any]:
    """Return the subject and the body (Markdown) of the question that a look at a held stage leads to."""
    report = assemble(ObjectStore(environment.s3), release.model, release.holder)
    until = look.get("held_until")
    body = evidence(report, datetime.fromisoformat(until) if until else None, f"Not decided: {look['reason']}")
    return {"subject": f"{release.model} version {release.version} is held at {stage} %. What now?", "body": body}
