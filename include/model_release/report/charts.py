"""Pictures as SVG, drawn without a browser; the same data gives the same bytes."""

from __future__ import annotations

from typing import Any

from model_release.parity.report import OutputParity

#: Readable on a light and on a dark page.
_INK, _BAR, _LIMIT = "#7d7d7d", "#4c78a8", "#d1495b"
_WIDTH, _HEIGHT, _ROW_HEIGHT = 520, 160, 24
_MOST_LETTERS = 60


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
    axis = alt.Scale(type="log", domain=[min(ends), max(ends)], nice=False)
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=_BAR, binSpacing=0)
        .encode(
            x=alt.X("from:Q", scale=axis, title="absolute error", axis=alt.Axis(format=".0e", tickCount=6)),
            x2="to:Q",
            y=alt.Y("elements:Q", scale=alt.Scale(type="sqrt"), title="elements"),
            y2=alt.datum(0),
        )
    )
    layers: list[Any] = [bars]
    if found.atol > 0:
        limit = alt.Chart(alt.Data(values=[{"at": found.atol, "says": f"atol {found.atol:g}"}]))
        layers.append(limit.mark_rule(color=_LIMIT, strokeDash=[6, 4]).encode(x=alt.X("at:Q", scale=axis)))
        said = limit.mark_text(color=_LIMIT, align="right", dx=-4, baseline="top", y=2)
        layers.append(said.encode(x=alt.X("at:Q", scale=axis), text="says:N"))
    return _svg(alt.layer(*layers), _HEIGHT)


def worst_cases(found: OutputParity) -> str | None:
    """Draw the largest error of each of the worst cases, as a share of what is allowed; None without such shares."""
    import altair as alt

    ratios = {
        _short(f"{place}. {worst.case}"): worst.ratio for place, worst in enumerate(found.worst_cases, 1) if worst.ratio
    }
    if not ratios:
        return None
    values = [{"case": case, "ratio": ratio} for case, ratio in ratios.items()]
    axis = alt.Scale(type="log", domain=[min(1.0, *ratios.values()) / 2, max(1.0, *ratios.values()) * 2], nice=False)
    points = (
        alt.Chart(alt.Data(values=values))
        .mark_point(color=_BAR, filled=True, size=70)
        .encode(
            x=alt.X("ratio:Q", scale=axis, title="error / allowed", axis=alt.Axis(format="~g", tickCount=5)),
            y=alt.Y("case:N", sort=None, title=None, axis=alt.Axis(labelLimit=420, grid=True)),
        )
    )
    limit = alt.Chart(alt.Data(values=[{"at": 1}])).mark_rule(color=_LIMIT, strokeDash=[6, 4])
    return _svg(alt.layer(points, limit.encode(x=alt.X("at:Q", scale=axis))), _ROW_HEIGHT * len(values))


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _svg(chart: Any, height: int) -> str:
    import vl_convert

    styled = (
        chart.properties(width=_WIDTH, height=height, background="transparent")
        .configure(font="sans-serif")
        .configure_axis(
            labelColor=_INK, titleColor=_INK, domainColor=_INK, tickColor=_INK, gridColor=_INK, gridOpacity=0.2
        )
        .configure_view(stroke=None)
    )
    drawn: str = vl_convert.vegalite_to_svg(styled.to_dict())
    return drawn
