"""Which candidate wins: the highest throughput whose p99 meets the objective with confidence; ties to the simpler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model_release.benchmark.contender import Contender, best_of
from model_release.benchmark.plan import complexity

#: A simpler candidate whose median is at most this much below the best one's ties with it. What noise hides is no tie:
#: where it leaves much open the simplest of all would win, at a price that is as great as the noise.
TIE = 0.03
#: Nobody needs to know more exactly: a simpler one that is at most this much slower is taken without more repeats.
ENOUGH = 0.10


@dataclass(frozen=True)
class Decision:
    """The contender that wins for now, the fastest one, and whether more repeats could still change it."""

    chosen: Contender
    fastest: Contender
    settled: bool


def decide(contenders: Sequence[Contender], objective_p99_ms: float) -> Decision | None:
    """Return what the runs so far say; None while no contender meets the objective with confidence."""
    meeting = [each for each in contenders if each.meets(objective_p99_ms)]
    if not meeting:
        return None
    fastest = best_of(meeting)
    chosen = min((each for each in meeting if _ties(fastest, each)), key=lambda each: complexity(each.tuning))
    rivals = [each for each in contenders if each is not fastest and _might_win(each, fastest, chosen)]
    return Decision(chosen, fastest, settled=not rivals and _is_clear(fastest, chosen))


def _ties(fastest: Contender, other: Contender) -> bool:
    return other is fastest or fastest.throughput.median <= other.throughput.median * (1 + TIE)


def _is_clear(fastest: Contender, chosen: Contender) -> bool:
    """Say whether the simpler one that was chosen is shown to be near enough to the fastest."""
    high = fastest.over(chosen).high
    return chosen is fastest or (high is not None and high <= 1 + ENOUGH)


def _might_win(other: Contender, fastest: Contender, chosen: Contender) -> bool:
    """Say whether repeats could still make another one the choice."""
    if not other.own:
        return False
    over = fastest.over(other)
    if over.low is None or over.high is None:
        return True
    simpler = complexity(other.tuning) < complexity(chosen.tuning)
    return over.low <= 1 + TIE if simpler else over.high < 1
