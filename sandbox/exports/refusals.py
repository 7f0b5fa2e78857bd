"""Files and models that must be refused, with the class of the error that must say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_release.errors import ReleaseError
from sandbox.exports import refused_files, refused_models


@dataclass(frozen=True)
class Refusal:
    """One case; `run` must raise `error`, one of them, or a class below it."""

    name: str
    what: str
    error: type[ReleaseError] | tuple[type[ReleaseError], ...]
    run: Callable[[Path], None]


REFUSALS: dict[str, Refusal] = {
    name: Refusal(name, what, error, run) for name, what, error, run in (*refused_files.CASES, *refused_models.CASES)
}
