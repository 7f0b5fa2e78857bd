"""docs/canary.md: what came of the scenes, and of the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.sandbox.canary.play import LOOK_S, Told
from tests.sandbox.canary.scenes import CLIENTS, RATE_PER_S, USERS


@dataclass(frozen=True)
class Split:
    """How many of the requests at a weight went to the canary, as clients saw it."""

    percent: int
    requests: int
    on_canary: int

    @property
    def sigmas(self) -> float:
        """How far that is from the weight, in standard deviations of chance."""
        share = self.percent / 100
        expected, deviation = share * self.requests, (self.requests * share * (1 - share)) ** 0.5
        return (self.on_canary - expected) / deviation if deviation else 0.0


def page(told: Sequence[Told], splits: Sequence[Split]) -> str:
    """Return the page as Markdown."""
    rows, shares = (row(each) for each in told), (_split(each) for each in splits)
    return "\n".join([HEAD, *rows, SPLIT, *shares, *_words(told)]) + "\n"


HEAD = f"""# The canary under live traffic, measured

Written by `make show-canary` (`python -m tests.sandbox.canary`); do not edit. A real Envoy, two fleets of two real
Tritons on one machine, {CLIENTS} clients with {RATE_PER_S:g} requests a second over HTTP, a look every {LOOK_S:g} s.
Each row is a release of its own, from plan to its end. The faults come from the sandbox's backend, inside Triton.

Seconds count from the fault (in a: from the first stage's start): until the verdict, and until the canary had no
weight for want of a proved replica (`withdrawn`). `weight 0` is from the rollback's start until weight 0 was confirmed
at the receivers; where the verdict was none, or to advance, the release was rolled back by hand at the end. `bad`
requests are those that the canary did not answer well, as the router counts them; `client errors` is what clients saw.
Of d1 to d4 any verdict is right, of f, h, j and l any but a rollback; in all but h no client may see an error, in j
none but the one whom both arms fail. From j on requests go by the header x-user, of {len(USERS)} users.

| | what befalls the canary | verdict | after s | withdrawn after s | weight 0 after s | bad | client errors |
|---|---|---|---|---|---|---|---|"""

SPLIT = """
## The split that clients see

The last column is the distance from the asked weight in standard deviations of chance: two or three are usual.

| asked | requests | on the canary | standard deviations |
|---|---|---|---|"""


def row(told: Told) -> str:
    """Return a scene's row."""
    mark = "" if told.right else " (NOT AS IT SHOULD BE)"
    return (
        f"| {told.scene.key} | {told.scene.what} | {told.verdict}{mark} | {_s(told.verdict_after_s)} | "
        f"{_s(told.no_weight_after_s)} | {_s(told.weight_0_after_s)} | "
        f"{told.canary_errors} of {told.canary_requests} | {told.client_errors} of {told.client_requests} |"
    )


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _split(each: Split) -> str:
    share = 100 * each.on_canary / max(1, each.requests)
    return f"| {each.percent} % | {each.requests} | {share:.2f} % | {each.sigmas:+.1f} |"


def _words(told: Sequence[Told]) -> list[str]:
    return [
        "",
        "## In the judge's words",
        "",
        *(f"- {each.scene.key}: {each.verdict}. {each.reason}" for each in told),
    ]
