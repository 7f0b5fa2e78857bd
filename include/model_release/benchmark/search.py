"""
The search: every candidate gets one short run, the better ones more, and the last few as many as it takes to choose.

Successive halving. A candidate is judged at the highest concurrency at which its p99 may still meet the objective, so
that most are left after a single run. The finalists are measured by turns, A B, B A, A B: what disturbs the machine for
a while disturbs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model_release.benchmark.choose import TIE, Decision, decide
from model_release.benchmark.contender import Contender, best_of
from model_release.benchmark.meter import Run
from model_release.benchmark.plan import complexity
from model_release.triton.config import Tuning

FINALISTS = 4
_KEEP = 2
_RUNS_A_VISIT = 2
MOST_RUNS = 8
#: Longer runs are better spent on repeats, whose spread shows the noise.
MOST_RUN_S = 3.0
#: The part of the budget that one short run of every candidate may take.
_SCREEN_SHARE = 0.4
#: A candidate this far behind the best is out without more looks.
_FAR_BEHIND = 0.6
#: What bringing a candidate onto the server is taken to cost before the first was brought there.
_EXPECTED_APPLY_S = 3.0


class Bench(Protocol):
    """The server that candidates are brought onto."""

    def apply(self, tuning: Tuning) -> None:
        """Bring a tuning onto it and return once it is served."""

    def run(self, concurrency: int, seconds: float) -> Run:
        """Measure what is served."""

    def least_run_s(self) -> float:
        """Return how long a run of what is served has to be."""


@dataclass
class Found:
    """What the search measured, what it decided, and what the budget did not reach."""

    contenders: list[Contender]
    decision: Decision | None
    not_tried: list[Tuning] = field(default_factory=list)


class Search:
    """One search within its budget of seconds; `serving` is the tuning that the server has already."""

    def __init__(
        self,
        bench: Bench,
        levels: Sequence[int],
        objective_p99_ms: float,
        budget_s: float,
        clock: Callable[[], float],
        serving: Tuning | None = None,
    ) -> None:
        self._bench, self._clock = bench, clock
        self._levels = sorted(set(levels), reverse=True)
        self._objective = objective_p99_ms
        self._budget_s = budget_s
        self._until = clock() + budget_s
        self._loaded = serving
        self._apply_s = _EXPECTED_APPLY_S
        self._least_run_s = 0.0

    @property
    def loaded(self) -> Tuning | None:
        """The tuning that the server has."""
        return self._loaded

    def run(self, candidates: Sequence[Tuning]) -> Found:
        """Screen all candidates, halve them, and measure the rest until the choice is settled."""
        contenders, not_tried = self._screen(candidates)
        hopeful = [each for each in contenders if each.own] or self._nearest(contenders)
        decision = self._settle(self._halve(hopeful))
        return Found(contenders, decision, not_tried)

    def curve(self, contender: Contender) -> None:
        """Measure a contender once at each level where it was not, as far as the budget goes; it stays loaded."""
        self._bring(contender.tuning)
        for level in self._levels:
            if level not in contender.runs and self._left_s() > self._least_run_s:
                contender.add(level, self._bench.run(level, self._least_run_s))

    def _left_s(self) -> float:
        return self._until - self._clock()

    def _bring(self, tuning: Tuning) -> None:
        if tuning == self._loaded:
            return
        began = self._clock()
        self._loaded = None
        self._bench.apply(tuning)
        self._loaded = tuning
        self._apply_s = self._clock() - began

    # --- one short run each -----------------------------------------------------------------------

    def _screen(self, candidates: Sequence[Tuning]) -> tuple[list[Contender], list[Tuning]]:
        contenders: list[Contender] = []
        waiting = sorted(candidates, key=lambda tuning: tuning != self._loaded)
        while waiting:
            if contenders and self._left_s() < 2 * self._apply_s + (1 + _RUNS_A_VISIT) * self._least_run_s:
                break  # what is left is for another look at the best
            contender = Contender(waiting.pop(0), list(self._levels))
            self._bring(contender.tuning)
            self._least_run_s = max(self._least_run_s, self._bench.least_run_s())
            share_s = self._budget_s * _SCREEN_SHARE / len(candidates) - self._apply_s
            self._look(contender, _within(share_s, self._least_run_s), contenders)
            contenders.append(contender)
        return contenders, waiting

    def _look(self, contender: Contender, seconds: float, others: Sequence[Contender]) -> None:
        """Run at the highest level, and at lower ones while the p99 is far beyond the objective and there is hope."""
        hopeful = [other.throughput.median for other in others if other.may_meet(self._objective)]
        while contender.level is not None:
            contender.add(contender.level, self._bench.run(contender.level, seconds))
            if contender.may_meet(self._objective):
                return
            behind = bool(hopeful) and contender.throughput.median < _FAR_BEHIND * max(hopeful)
            contender.descend()
            if behind or (others and self._left_s() < 0):
                contender.levels.clear()

    def _nearest(self, contenders: list[Contender]) -> list[Contender]:
        """Return the few that were nearest to the objective, at the least load: one run each does not refute it."""
        least = self._levels[-1]
        there = [each for each in contenders if least in each.runs]
        nearest = sorted(there, key=lambda each: each.runs[least][0].p99_ms)[:FINALISTS]
        for contender in nearest:
            contender.levels = [least]
        return nearest

    # --- the better ones again --------------------------------------------------------------------

    def _halve(self, contenders: list[Contender]) -> list[Contender]:
        while len(contenders) > FINALISTS:
            contenders = self._ranked(contenders)[: max(FINALISTS, math.ceil(len(contenders) / _KEEP))]
            if len(contenders) > FINALISTS:
                for contender in contenders:
                    if self._left_s() > self._apply_s + self._least_run_s:
                        self._visit(contender, 1)
        return contenders

    @staticmethod
    def _ranked(contenders: list[Contender]) -> list[Contender]:
        """Return those that tie with the best, the simple first, and then the others by their throughput."""
        best = best_of(contenders).throughput.median

        def rank(contender: Contender) -> tuple[bool, tuple[int, ...], float]:
            throughput = contender.throughput.median
            ties = throughput * (1 + TIE) >= best
            return not ties, complexity(contender.tuning) if ties else (), -throughput

        return sorted(contenders, key=rank)

    # --- the last few -----------------------------------------------------------------------------

    def _settle(self, finalists: list[Contender]) -> Decision | None:
        """Measure by turns until no repeat could change the choice, or the budget is over."""
        while True:
            self._descend(finalists)
            decision = decide(finalists, self._objective)
            alive = [each for each in finalists if each.level is not None and len(each.own) < MOST_RUNS]
            if not alive or (decision is not None and decision.settled):
                return decision
            # The one that is loaded begins, so each turn but the first brings one candidate less.
            alive.sort(key=lambda each: each.tuning != self._loaded)
            for number, contender in enumerate(alive):
                needed_s = self._cost_s(contender)
                if self._left_s() < needed_s and (decision is not None or number or self._tried(finalists)):
                    return decide(finalists, self._objective)
                self._visit(contender, _RUNS_A_VISIT)

    @staticmethod
    def _tried(finalists: Sequence[Contender]) -> bool:
        """Say whether at least one has the two runs without which nothing is known with confidence."""
        return any(len(each.own) >= _RUNS_A_VISIT for each in finalists)

    def _cost_s(self, contender: Contender) -> float:
        apply_s = 0.0 if contender.tuning == self._loaded else self._apply_s
        return apply_s + _RUNS_A_VISIT * self._least_run_s

    def _descend(self, finalists: list[Contender]) -> None:
        """Let those that miss the objective where they are judged go on at a lower level."""
        for contender in finalists:
            undecided = len(contender.own) >= MOST_RUNS and not contender.meets(self._objective)
            if contender.level is not None and (contender.misses(self._objective) or undecided):
                contender.descend()

    def _visit(self, contender: Contender, runs: int) -> None:
        self._bring(contender.tuning)
        seconds = _within(self._left_s() / (FINALISTS * MOST_RUNS), self._least_run_s)
        for _ in range(runs):
            if contender.level is not None:
                contender.add(contender.level, self._bench.run(contender.level, seconds))


def _within(seconds: float, least_s: float) -> float:
    return max(least_s, min(MOST_RUN_S, seconds))
