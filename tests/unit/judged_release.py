"""A whole release's looks, judged for their evidence alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from model_release.gates.judge import Judge
from model_release.gates.looks import Look
from model_release.spec import Canary


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
