"""The pictures of a benchmark: throughput against p99, and the batches that were formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_release.report.charts import BAR, INK, LIMIT, drawable, limit_across, logarithmic, svg

_WIDE, _WIDTH, _TALL, _HEIGHT = 560, 440, 260, 160
_ROOM = 1.25
_OTHERS = "#8a939c"
_MOST_LABELS = 40


def throughput_against_p99(rows: Sequence[dict[str, Any]], chosen: Any, objective_p99_ms: float) -> str | None:
    """
    Draw each row by its p99 and throughput, the chosen tuning's as a line, the chosen point with its intervals.

    `chosen` is the row that was chosen, or None. The objective is a line; what lies left of it meets it.
    """
    import altair as alt

    values = [_point(row, chosen) for row in rows if drawable(row["p99_ms"])]
    if not values:
        return None
    ends = [each["p99"] for each in values] + [objective_p99_ms]
    x = logarithmic(alt.X, "p99:Q", "p99 (ms)", min(ends) / _ROOM, max(ends) * _ROOM)
    y = alt.Y("throughput:Q", title="requests a second", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    points = alt.Chart(alt.Data(values=[each for each in values if not each["chosen"]]))
    line = alt.Chart(alt.Data(values=[each for each in values if each["chosen"]]))
    layers = [
        points.mark_point(color=_OTHERS, filled=True, size=50, opacity=0.8).encode(x=x, y=y),
        line.mark_line(color=BAR).encode(x=x, y=y, order="concurrency:Q"),
        line.mark_point(color=BAR, filled=True, size=60, opacity=1).encode(x=x, y=y),
        line.mark_text(color=INK, align="left", dx=7, dy=10).encode(x=x, y=y, text="concurrency:N"),
        *limit_across(objective_p99_ms, x, f"objective {objective_p99_ms:g} ms"),
    ]
    return svg(alt.layer(*layers, *(_chosen_point(chosen, x, y) if chosen else [])), _WIDE, _TALL)


def _point(row: dict[str, Any], chosen: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "p99": row["p99_ms"],
        "throughput": row["throughput_per_s"],
        "concurrency": row["concurrency"],
        "chosen": chosen is not None and row["tuning"] == chosen["tuning"],
    }


def _chosen_point(chosen: dict[str, Any], x: Any, y: Any) -> list[Any]:
    """Draw a ring around the chosen point, and its two intervals as a cross."""
    import altair as alt

    p99, rate = chosen["intervals"]["p99_ms"], chosen["intervals"]["throughput_per_s"]
    value = {"p99": chosen["p99_ms"], "throughput": chosen["throughput_per_s"]}
    ring = alt.Chart(alt.Data(values=[value]))
    layers = [ring.mark_point(color=LIMIT, size=220, strokeWidth=2, opacity=1).encode(x=x, y=y)]
    if None in (p99["low"], p99["high"], rate["low"], rate["high"]):
        return layers
    ends = {"low": p99["low"], "high": p99["high"], "least": rate["low"], "most": rate["high"], **value}
    cross = alt.Chart(alt.Data(values=[ends])).mark_rule(color=BAR, size=2)
    across, up = x.copy(deep=False), y.copy(deep=False)
    across.shorthand, up.shorthand = "low:Q", "least:Q"
    return [*layers, cross.encode(x=across, x2="high:Q", y=y), cross.encode(x=x, y=up, y2="most:Q")]


def batches_formed(batch_sizes: dict[str, int]) -> str | None:
    """Draw which share of the requests was answered in a batch of each size; None where none was counted."""
    import altair as alt

    requests = {int(size): max(int(size), 1) * count for size, count in batch_sizes.items()}
    total = sum(requests.values())
    if not total:
        return None
    values = [{"size": size, "share": requests[size] / total} for size in sorted(requests)]
    axis = alt.Axis(labelAngle=0, labelOverlap=len(values) > _MOST_LABELS // 2)
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=BAR)
        .encode(
            x=alt.X("size:O", title="samples in the batch", axis=axis),
            y=alt.Y("share:Q", title="share of the requests", axis=alt.Axis(tickCount=4, format="%")),
        )
    )
    return svg(bars, _WIDTH, _HEIGHT)
