"""The four kinds of error, and what their sentences share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ReleaseError(Exception):
    """Anything that ends a release, with one sentence for a person."""

    retryable = False


class BadInput(ReleaseError):
    """What the user gave does not hold; the same call fails again until it is changed."""


class Unavailable(ReleaseError):
    """An outside system did not answer; nothing was changed and a retry may help."""

    retryable = True


class Refused(ReleaseError):
    """A rule of the pipeline forbids the step."""


class Failed(ReleaseError):
    """A check of the release did not pass."""


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean X?' for a close match of `got`, else an empty string."""
    close = difflib.get_close_matches(got, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def versioned(model: str, version: int | None) -> str:
    """Return how a sentence names a model, and its version if there is one."""
    return model if version is None else f"{model} version {version}"


def listing(names: Sequence[str], most: int = 8) -> str:
    """Join the first names and say how many more there are."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
