"""`notify`: who is told of what happens to a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from model_release.spec.section import Section

Occasion = Literal["promoted", "rolled_back", "held", "approval", "superseded", "failed", "guard"]
"""
`promoted`: a version is stable. `rolled_back`: one was taken back. `held`: a stage waits for a person. `approval`: a
release does. `superseded`: another release took over. `failed`: a release ended without either. `guard`: the guard did
something.
"""
OCCASIONS: tuple[Occasion, ...] = ("promoted", "rolled_back", "held", "approval", "superseded", "failed", "guard")
ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200)]


class Notify(Section):
    """One place that messages go to: an Apprise connection of Airflow, or of the environment's `notify`."""

    connection: ConnectionId
    on: Annotated[list[Occasion], Field(min_length=1)] = [*OCCASIONS]
