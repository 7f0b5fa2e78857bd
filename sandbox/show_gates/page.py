"""docs/gates.md: the tables, and what must hold in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sandbox.show_gates.measure import ALPHA, ALPHA_ADVANCE, Row
from sandbox.show_gates.traffic import CELLS, COARSE_S, LOOK_S

_TITLES = {"errors": "Errors", "latency": "Latency, gate `slower_than: 1.10`, buckets of 10 %", "advance": "Advance"}
_INTRO = f"""# What the gates do, measured

Written by `make show-gates` (`python -m sandbox.show_gates`); do not edit. The shipped judge is run look by look on
simulated traffic: Poisson arrivals, a look every {LOOK_S:g} s (the spec's default), 600 s, one gate, alpha {ALPHA:g}
for a rollback and {ALPHA_ADVANCE:g} for an advance, stable failing 0.1 % unless a row says otherwise. The other rules
look every {COARSE_S} s, as the tables that they are known by do. Every rule sees the same traffic.

- **judge**: after looks at stable alone: 30 minutes by replica (`stable_by_replica`), as the reference has for phi, and
  10 minutes for latency. A release takes them while it prepares, for as long as that takes.
- **judge, cold**: nothing is known of stable before the first look.
- **reference**: stratified conditional-binomial e-process, odds ratio 1.5, uniform mixture over eight effects, bad
  requests taken as independent. **reference /phi**: the same with bad requests divided by stable's dispersion.
- **Flagger-like**: the canary's errors of a minute above 1 %, five times. **Kayenta-like**: Mann-Whitney on one-minute
  points, asked every minute from the fifth.

A cell is: share of the runs rolled back (or advanced) / median seconds over all runs (-: not in half of them) / median
canary requests until then / median bad ones among them.

Two things are as they are on purpose. One look never rolls back alone, however bad it is: a crash that fails 50
requests looks the same, and is no reason. So nothing is faster than two looks ({2 * LOOK_S:g} s). And a cold judge
counts a look as few events until stable's own bad requests have shown how they clump; where stable never fails and
takes half the traffic, that costs most.

Where the power comes from: more looks; bets on those effects that the present traffic can show at all, by the requests
of the first look and what stable did before; and an advance that shares one alpha between both arms.

Limits: clumps lie within a look (a crash that fails requests in two looks counts twice); arrivals are independent;
effects are there from the first look on; one stage, one gate. Sticky users are judged by requests and users
together, as Envoy's log tells them. Requests alone, which the other rules have, are a trap there: they roll healthy
versions back beyond alpha, so that how fast they are with bad ones is no measure, and the price of few users is seen.
"""

_ENOUGH_RUNS = 40
_FASTER = 0.9


def page(rows: Sequence[Row], failures: Sequence[str]) -> str:
    """Return the whole page."""
    parts = [_INTRO, "## What must hold\n", _held(rows, failures)]
    for group, title in _TITLES.items():
        own = [row for row in rows if row.group == group]
        for harmless in (True, False):
            some = [row for row in own if row.harmless == harmless]
            if some:
                what = "" if group == "advance" else ": harmless, rollbacks are false" if harmless else ": harmful"
                parts.append(f"## {title}{what}\n")
                parts.append("\n".join(_table(some)) + "\n")
    return "\n".join(parts)


def _held(rows: Sequence[Row], failures: Sequence[str]) -> str:
    false = [row for row in rows if row.harmless and row.rule.startswith("judge")]
    lines = [
        f"- False rollbacks of the judge: at most {max(row.share for row in false):.2%} in any of {len(false)} cells "
        f"({false[0].runs} runs each; alpha {ALPHA:.0%}, and chance may add to it), "
        f"{sum(row.share * row.runs for row in false) / sum(row.runs for row in false):.2%} over all.",
        "- Time to rollback, judge against reference (/phi where errors clump): not slower.",
        f"- Faster than the reference, by the mean over paired runs: {_faster(rows)}.",
        *(f"- **FAILED**: {failure}" for failure in failures),
    ]
    return "\n".join(lines) + "\n"


def _faster(rows: Sequence[Row]) -> str:
    """Return where the judge takes at most nine tenths of the reference's seconds."""
    found = [
        f"{row.scenario} at {row.cell} ({row.mean_seconds:.0f} s, not {other.mean_seconds:.0f} s)"
        for row, other, _ in _against_reference(rows)
        if row.mean_seconds <= _FASTER * other.mean_seconds
    ]
    return "; ".join(found) or "nowhere"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    cells = [str(cell) for cell in CELLS if any(row.cell == str(cell) for row in rows)]
    yield "| scenario | rule | " + " | ".join(cells) + " |"
    yield "|---" * (len(cells) + 2) + "|"
    for scenario in dict.fromkeys(row.scenario for row in rows):
        for rule in dict.fromkeys(row.rule for row in rows):
            found = {row.cell: row for row in rows if (row.scenario, row.rule) == (scenario, rule)}
            if found:
                yield f"| {scenario} | {rule} | " + " | ".join(_cell(found[cell]) for cell in cells) + " |"


def _cell(row: Row) -> str:
    seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
    return f"{row.share:.1%} / {seconds} / {row.requests:.0f} / {row.bad:.0f}"


def failures(rows: Sequence[Row]) -> list[str]:
    """Return what does not hold: false rollbacks or advances beyond alpha, rollbacks slower than the reference's."""
    found = [
        f"{row.group}, {row.scenario}, {row.cell}, {row.rule}: {row.share:.2%} of {row.runs} runs rolled back falsely"
        for row in rows
        if row.harmless and row.rule.startswith("judge") and row.share * row.runs > most_by_chance(row.runs, ALPHA)
    ]
    found += [
        f"advance, {row.scenario}, {row.cell}: {row.share:.2%} of {row.runs} runs advanced at the margin or beyond"
        for row in rows
        if row.group == "advance"
        and row.scenario.startswith(("0.1 -> 0.6", "0.1 -> 1"))
        and row.share * row.runs > most_by_chance(row.runs, ALPHA_ADVANCE)
    ]
    return [*found, *_slower(rows)]


def _slower(rows: Sequence[Row]) -> Iterator[str]:
    for row, other, rule in _against_reference(rows):
        # Runs are paired; their mean, cut at the end of the simulation, is steadier than the median. One look or a
        # twentieth is what chance makes of equal rules here.
        if row.runs >= _ENOUGH_RUNS and row.mean_seconds > other.mean_seconds * 1.05 + LOOK_S:
            yield (
                f"{row.group}, {row.scenario}, {row.cell}: {row.mean_seconds:.0f} s to rollback on average, "
                f"the {rule} {other.mean_seconds:.0f} s"
            )


def _against_reference(rows: Sequence[Row]) -> Iterator[tuple[Row, Row, str]]:
    by_place = {(row.group, row.scenario, row.cell, row.rule): row for row in rows}
    for row in rows:
        if row.rule != "judge" or row.harmless or row.group == "advance" or row.scenario.startswith("sticky"):
            continue  # with sticky users the reference does not hold alpha, so its speed is no measure
        rule = "reference /phi" if row.scenario.startswith("clumps") else "reference"
        other = by_place.get((row.group, row.scenario, row.cell, rule))
        if other is not None:
            yield row, other, rule


def most_by_chance(runs: int, alpha: float) -> float:
    """Return how many of the runs may be rolled back by chance: three standard deviations and one above alpha."""
    return runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha)) + 1
