"""
Where the counters of a look come from, beside the router's own: the port, and what a reading of it means.

A source is asked for raw counters at one instant for both arms. It tells three things apart: an outage (it does not
answer, or its newest sample is too old) raises MetricsUnavailable; a counter that nobody has ever raised is absent;
and a counter that did not move is zero events. None of the three is evidence, for or against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from model_release.gates.looks import Proportion
from model_release.spec import PromqlSource

Series = Mapping[str, float]
"""Raw counters by the labels of their series: a pod that restarts resets its own alone."""


@dataclass(frozen=True)
class Counted:
    """One arm's raw counters of good events and of all."""

    good: Series = field(default_factory=dict)
    total: Series = field(default_factory=dict)


@dataclass(frozen=True)
class ArmOf:
    """Whose counters are asked for: `$model`, `$version` and `$fleet` in a query."""

    model: str
    version: int
    fleet: str


class Source(Protocol):
    """What holds the users' own counters."""

    def read(self, asked: Mapping[str, PromqlSource], arms: Mapping[str, ArmOf]) -> dict[str, dict[str, Counted]]:
        """
        Return raw counters by gate and arm, all of one instant.

        Raises MetricsUnavailable.
        """


def since(before: Mapping[str, Counted], after: Mapping[str, Counted]) -> dict[str, Proportion] | None:
    """
    Return what both arms counted between two readings of one gate, or None when they do not compare.

    A series that went back or vanished drops the look for both arms: half of it would favour one of them. One that is
    new says nothing yet, since nobody knows when it began.
    """
    counted = {}
    for arm, now in after.items():
        earlier = before.get(arm)
        good = None if earlier is None else _risen(earlier.good, now.good)
        total = None if earlier is None else _risen(earlier.total, now.total)
        if good is None or total is None:
            return None
        counted[arm] = Proportion(min(good, total), total)
    return counted


def _risen(before: Series, after: Series) -> int | None:
    """Return how much all series rose; None when one of them fell or is gone."""
    if any(after.get(series, -1.0) < value for series, value in before.items()):
        return None
    return round(sum(after[series] - value for series, value in before.items()))
