"""docs/reload.md, from what was measured."""

from __future__ import annotations

import statistics

from tests.sandbox.reload.measure import Moves, Reloads

#: What has to hold: our load of a replica, without its proof, beside a bare call.
MOST_RATIO = 1.5
_HEAD = """# Reloads, measured

Written by `make show-reload` (`python -m tests.sandbox.reload`); do not edit. On a sandbox of its own, real Tritons and
S3, with the small example `digits_classifier`. Figures of one machine and one run: compare within a table, not across
machines.
"""


def page(reloads: Reloads, moves: Moves) -> str:
    """Return the whole page."""
    rows = [
        ("one bare load call, to one replica", reloads.bare_s, ""),
        (f"every replica of the fleet ({reloads.replicas}), READY there alone", reloads.loaded_s, None),
        ("the same, and each has proved config and recorded answers", reloads.proved_s, None),
    ]
    lines = [
        _HEAD,
        "## One reload",
        "",
        f"The same version, {len(reloads.bare_s)} times in each way, by turns; medians, and the smallest and largest.",
        "",
        "| what | seconds | a replica, beside the bare call |",
        "|---|---|---|",
        *(
            f"| {what} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | "
            f"{f'{reloads.ratio(seconds):.2f}' if ratio is None else ratio} |"
            for what, seconds, ratio in rows
        ),
        "",
        "## Under load",
        "",
        "| what | seconds |",
        "|---|---|",
        *(f"| {what} | {seconds:.1f} |" for what, seconds in moves.done),
        "",
        f"Meanwhile clients sent {moves.requests} requests; {moves.errors} of them failed.",
        "",
    ]
    return "\n".join(lines)


def failures(reloads: Reloads, moves: Moves) -> list[str]:
    """Return what does not hold."""
    found = [f"clients saw {moves.errors} errors: {'; '.join(moves.problems)}"] if moves.errors else []
    ratio = reloads.ratio(reloads.loaded_s)
    if ratio > MOST_RATIO:
        found.append(f"a load of ours takes {ratio:.2f} bare calls, allowed is {MOST_RATIO}")
    return found
