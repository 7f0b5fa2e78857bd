"""What every part of a config is: immutable, unknown keys forbidden."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)
