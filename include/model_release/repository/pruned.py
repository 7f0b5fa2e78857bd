"""pruned.json: all that stays of a version whose files were deleted. Written once, before the first of them goes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from model_release.repository.manifest import SourceEntry
from model_release.spec import Section

NAME = "pruned.json"


class Pruned(Section):
    """Who pruned a version, when and why, and what it was."""

    schema_version: Literal[1] = 1
    model: str
    version: int
    at: datetime
    by: str
    why: str
    run_id: str
    source: SourceEntry
    spec_digest: str
    release_digest: str
    sealed_at: datetime
