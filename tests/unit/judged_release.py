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

LOOK_S = 2.5
LOOKS_A_MINUTE = 24


def come_to(levels: Sequence[int], users: np.ndarray[Any, Any], at: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """How many of some users are at each level."""
    found = np.bincount(at[users], minlength=max(levels) + 1)
    return tuple(int(found[level]) for level in levels)


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
