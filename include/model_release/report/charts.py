"""Pictures as SVG, drawn without a browser; the same data gives the same bytes."""

from __future__ import annotations

import math
from typing import Any

from model_release.parity.report import AccuracyReport, OutputParity

#: The page's own ink, light or dark; the other two are readable on both.
INK, BAR, LIMIT = "currentColor", "#4c8ac4", "#d1495b"
_DASHES = [6, 4]
_WIDTH, _NARROW, _HEIGHT, _ROW_HEIGHT = 440, 200, 160, 26
_MOST_TICKS, _MOST_LETTERS = 7, 36
_PLAIN_FROM, _PLAIN_TO = 1e-4, 1e4
_POWER = "replace(format(datum.value, '.0e'), '+', '')"


def error_histogram(found: OutputParity) -> str | None:
    """Draw how large the absolute errors are, with a line at atol; None where there is no error to show."""
    import altair as alt

    bins = found.histogram
    if not bins.counts:
        return None
    values = [
        {"from": low, "to": high, "elements": count}
        for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True)
        if count
    ]
    ends = [bins.edges[0], bins.edges[-1], *([found.atol / 2, found.atol * 2] if found.atol > 0 else [])]
    x = logarithmic(alt.X, "from:Q", "absolute error", min(ends), max(ends))
    count = alt.Axis(tickCount=4, labelExpr="datum.value ? format(datum.value, '~s') : '0'")
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=BAR, binSpacing=0)
        .encode(
            x=x,
            x2="to:Q",
            y=alt.Y("elements:Q", scale=alt.Scale(type="sqrt"), title="elements (root scale)", axis=count),
            y2=alt.datum(0),
        )
    )
    layers = [bars, *limit_across(found.atol, x)] if found.atol > 0 else [bars]
    return svg(alt.layer(*layers), _WIDTH, _HEIGHT)


def by_batch_size(found: OutputParity) -> str | None:
    """Draw the largest error at each batch size, with a line at atol; None where all are 0, or there is one size."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {"size": str(at.batch_size), "error": at.max_abs} for at in found.by_batch_size if drawable(at.max_abs)
    ]
    if not values or len(found.by_batch_size) == 1:
        return None
    ends = [row["error"] for row in values] + ([found.atol] if found.atol > 0 else [])
    y = logarithmic(alt.Y, "error:Q", "largest error", min(ends) / 2, max(ends) * 2)
    sizes = [str(at.batch_size) for at in found.by_batch_size]
    points = (
        alt.Chart(alt.Data(values=values))
        .mark_point(color=BAR, filled=True, size=80, opacity=1)
        .encode(x=alt.X("size:O", scale=alt.Scale(domain=sizes), title="batch size", axis=alt.Axis(labelAngle=0)), y=y)
    )
    if found.atol <= 0:
        return svg(points, _NARROW, _HEIGHT)
    limit, place = alt.Chart(alt.Data(values=[{"at": found.atol}])), y.copy(deep=False)
    place.shorthand = "at:Q"
    rule = limit.mark_rule(color=LIMIT, strokeDash=_DASHES, opacity=1).encode(y=place)
    said = limit.mark_text(color=INK, align="left", dx=3, dy=-7, text=f"atol {found.atol:g}")
    return svg(alt.layer(points, rule, said.encode(x=alt.value(0), y=place)), _NARROW, _HEIGHT)


def worst_cases(found: OutputParity) -> str | None:
    """
    Draw the largest error of each of the worst cases, as a multiple of what is allowed; None without such figures.

    Rows are numbered as `found.worst_cases` is, from 1; a case without a figure (NaN, or nothing allowed) has no row.
    """
    import altair as alt

    values: list[dict[str, Any]] = [
        {"row": str(row), "ratio": worst.ratio}
        for row, worst in enumerate(found.worst_cases, 1)
        if worst.ratio is not None and drawable(worst.ratio)
    ]
    if not values:
        return None
    ratios = [1.0, *(row["ratio"] for row in values)]
    x = logarithmic(alt.X, "ratio:Q", "error, as a multiple of what is allowed", min(ratios) / 2, max(ratios) * 2)
    points = (
        alt.Chart(alt.Data(values=values))
        .mark_point(color=BAR, filled=True, size=80, opacity=1)
        .encode(x=x, y=alt.Y("row:N", sort=None, title="case", axis=alt.Axis(grid=True)))
    )
    return svg(alt.layer(points, *limit_across(1.0, x, "allowed")), _WIDTH, _ROW_HEIGHT * len(values))


def accuracy_differences(found: AccuracyReport) -> str | None:
    """
    Draw each difference of accuracy in percentage points with its one-sided interval, and -margin.

    The interval reaches from the lower confidence bound to the difference. None without comparisons.
    """
    import altair as alt

    values = [
        {
            "against": _short(other.against),
            "difference": 100 * other.difference,
            "lower": 100 * other.lower_bound,
            "limit": -100 * other.margin,
        }
        for other in found.comparisons
    ]
    if not values:
        return None
    points_of_accuracy = [number for row in values for number in row.values() if isinstance(number, float)]
    ends = min(0.0, *points_of_accuracy), max(0.0, *points_of_accuracy)
    room = 0.1 * (ends[1] - ends[0]) or 1.0
    scale = alt.Scale(domain=[ends[0] - room, ends[1] + room], nice=False)
    base = alt.Chart(alt.Data(values=values)).encode(y=alt.Y("against:N", sort=None, title=None, axis=_labels()))

    def x(name: str) -> Any:
        return alt.X(f"{name}:Q", scale=scale, title="difference of accuracy (points)", axis=alt.Axis(tickCount=6))

    same = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=INK, opacity=0.6).encode(x=x("zero"))
    intervals = base.mark_rule(color=BAR, size=3).encode(x=x("lower"), x2="difference:Q")
    points = base.mark_point(color=BAR, filled=True, size=80, opacity=1).encode(x=x("difference"))
    limits = base.mark_tick(color=LIMIT, thickness=3, opacity=1, size=_ROW_HEIGHT - 4).encode(x=x("limit"))
    return svg(alt.layer(same, intervals, points, limits), _WIDTH, _ROW_HEIGHT * len(values))


def drawable(value: float) -> bool:
    """Return whether a logarithmic axis has a place for the value."""
    return math.isfinite(value) and value > 0


def logarithmic(channel: Any, field: str, title: str, low: float, high: float) -> Any:
    """Return an encoding whose axis rises by factors."""
    import altair as alt

    said = "format(datum.value, '~g')" if low >= _PLAIN_FROM and high <= _PLAIN_TO else _POWER
    axis = alt.Axis(values=ticks(low, high), labelExpr=said)
    return channel(field, title=title, scale=alt.Scale(type="log", domain=[low, high], nice=False), axis=axis)


def ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between two positive numbers, thinned out to a few; 1, 2, 5 where they span too little."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(inside) < 2:
        steps = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
        return [step for step in steps if low <= step <= high] or [low, high]
    return inside[:: math.ceil(len(inside) / _MOST_TICKS)]


def limit_across(at: float, x: Any, says: str | None = None) -> list[Any]:
    """Draw a vertical dashed line at a limit, with what it is; by default an absolute tolerance."""
    import altair as alt

    limit, place = alt.Chart(alt.Data(values=[{"at": at}])), x.copy(deep=False)
    place.shorthand = "at:Q"
    rule = limit.mark_rule(color=LIMIT, strokeDash=_DASHES, opacity=1).encode(x=place)
    said = limit.mark_text(color=INK, align="right", dx=-4, dy=-4, baseline="bottom", text=says or f"atol {at:g}")
    return [rule, said.encode(x=place, y=alt.value(0))]


def _labels() -> Any:
    import altair as alt

    return alt.Axis(labelLimit=260, grid=True)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def svg(chart: Any, width: int, height: int) -> str:
    """Return a chart as SVG of that size in pixels, in the page's own ink."""
    import vl_convert

    axis = {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    styled = chart.properties(width=width, height=height, background="transparent").configure(
        font="sans-serif", axis=axis, view={"stroke": None}, text={"fontSize": 12}
    )
    # The charts are our own, and the tests draw each: to validate them anew took more than half of a page's time.
    drawn: str = vl_convert.vegalite_to_svg(styled.to_dict(validate=False))
    return drawn
