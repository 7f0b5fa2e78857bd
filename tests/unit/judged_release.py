"""A whole release's looks, judged for their evidence alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from model_release.gates.judge import Judge
from model_release.gates.looks import Look
from model_release.spec import Canary
from model_release.traffic.router import WINDOW_MINUTES, Window, levels_within

LOOK_S = 2.5
LOOKS_A_MINUTE = 24


def come_to(levels: Sequence[int], users: np.ndarray[Any, Any], at: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """How many of some users are at each level."""
    found = np.bincount(at[users], minlength=max(levels) + 1)
    return tuple(int(found[level]) for level in levels)


class Lately:
    """Who was affected in windows of a stage, as a router tells it look by look."""

    def __init__(self, own: np.ndarray[Any, Any]) -> None:
        self._own = own
        self._times: dict[int, Any] = dict.fromkeys(WINDOW_MINUTES, 0)

    def add(self, k: int, affected: np.ndarray[Any, Any]) -> tuple[Window, ...]:
        """Add a look of the release, by its number."""
        found = []
        for minutes in WINDOW_MINUTES:
            number, place = divmod(k, minutes * LOOKS_A_MINUTE)
            self._times[minutes] = times = affected + (self._times[minutes] if place else 0)
            levels = levels_within(minutes)
            arms = (come_to(levels, affected & arm, times) for arm in (self._own, ~self._own))
            found.append(Window(minutes, number, *arms))
        return tuple(found)


def back_at(looks: Sequence[Look], asked: Canary, bounds_ms: Sequence[float] | None = None) -> int | None:
    """At which look the evidence suffices, if ever; without the verdicts, which take their time."""
    carried, number = None, 0
    for stage, of_stage in itertools.groupby(looks, lambda each: each.stage):
        judge = Judge(asked, stage, first_release=False, bounds_ms=bounds_ms, carried=carried)
        for each in of_stage:
            number += 1
            judge.replay([each])
            if judge.log_evidence >= -math.log(asked.alpha_rollback):
                return number
        carried = judge.carried()
    return None
