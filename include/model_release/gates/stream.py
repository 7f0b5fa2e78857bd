"""Looks of a whole release, as they arrive: each is judged in its stage, with the evidence of the stages before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from model_release.gates import latency
from model_release.gates.judge import GATHERING, INCONCLUSIVE, Judge, Verdict
from model_release.gates.looks import Look
from model_release.spec import Canary

_KEPT = 1000


def judged(canary: Canary, looks: Iterable[Look], *, first_release: bool = False) -> Iterator[Verdict]:
    """
    Yield one verdict a look, as the looks arrive.

    A stage begins with the last look of the one before. Looks of stage 0, before the canary has any weight, set the
    latency bounds of the stages to come and tell how stable's bad requests clump; without them the first stage reads
    both from stable. Verdicts go on past the end of a stage, since nobody here acts on them.
    """
    judge: Judge | None = None
    stage, began_t, last_t = 0, 0.0, 0.0
    bounds_ms: list[float] | None = None
    idle: Mapping[str, int] = {}
    before: deque[Look] = deque(maxlen=_KEPT)
    for look in looks:
        if look.stage == 0:
            before.append(look)
            idle = latency.pooled(idle, look.stable.latency_buckets)
            bounds_ms = latency.bounds_from(idle)
            yield Verdict(
                look.t, 0, INCONCLUSIVE, f"{GATHERING}: stage 0 only sets the latency bounds {bounds_ms or []}"
            )
        else:
            if judge is None or look.stage != stage:
                bounds_ms = (judge.bounds_ms if judge else None) or bounds_ms
                stage, began_t = look.stage, last_t
                judge = Judge(
                    canary,
                    stage,
                    first_release=first_release,
                    bounds_ms=bounds_ms,
                    started_t=began_t,
                    carried=judge.carried() if judge else None,
                )
                judge.learn(before)
                before.clear()
            yield judge.take(look)
        last_t = look.t
