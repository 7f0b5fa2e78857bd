"""The identity of a version and of a release."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a release does."""

    BUILD = "build"
    """Makes the version from a checkpoint."""
    RESTORE = "restore"
    """Takes a sealed version from the archive."""


class Mode(StrEnum):
    """How a release is judged, and whether it stays."""

    NORMAL = "normal"
    DRY_RUN = "dry_run"
    """Everything up to a proved canary at weight 0, which is then taken away again."""
    EMERGENCY = "emergency"
    """Stable is bad: the canary is judged by the objectives alone, and the bakes are shorter."""


def version_of(moment: datetime) -> int:
    """
    Return the version of a run: its logical date in UTC as YYYYMMDDHHMMSS.

    Raises ValueError for a moment without a time zone, whose version would depend on the machine.
    """
    if moment.tzinfo is None:
        message = f"{moment.isoformat()} has no time zone"
        raise ValueError(message)
    return int(moment.astimezone(UTC).strftime("%Y%m%d%H%M%S"))


def date_of(version: int) -> datetime:
    """
    Return the UTC moment that a version names.

    Raises ValueError when the number is no such moment.
    """
    return datetime.strptime(str(version), "%Y%m%d%H%M%S").replace(tzinfo=UTC)


@dataclass(frozen=True)
class Release:
    """
    One release, as small as a message between tasks may be.

    `run_id` and `clear_number` name the try: a run that is cleared is another try of the same version.
    """

    model: str
    version: int
    kind: Kind
    run_id: str
    clear_number: int = 0
    checkpoint: str | None = None
    reason: str = ""
    by: str = ""
    sha256: str | None = None
    """The checkpoint's, as its training said it, where the model config leaves it to each release to pin the file."""
    mode: Mode = Mode.NORMAL
    backfill: bool = False
    """A backfill of its date asks for it: a date that was never sealed is built, however old it is."""
    asked_at: str | None = None
    """Since when (ISO 8601) the order lies there, if it may be out of date: a promotion since then makes it stale."""
    min_bake_s: float | None = None
    max_bake_s: float | None = None
    benchmark: bool = True

    @property
    def holder(self) -> str:
        """The run and its clear number, as people read it."""
        return f"{self.run_id}#{self.clear_number}"

    def to_dict(self) -> dict[str, Any]:
        """Return the release as JSON values."""
        return {**self.__dict__, "kind": str(self.kind), "mode": str(self.mode)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Release:
        """Read what `to_dict` wrote."""
        return cls(**{**values, "kind": Kind(values["kind"]), "mode": Mode(values.get("mode", Mode.NORMAL))})
