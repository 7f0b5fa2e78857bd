"""The pictures of a release's report: what the canary's stages saw, and what was measured on bench."""

from __future__ import annotations

from typing import Any

from model_release.report.charts import BAR, INK, LIMIT, svg
from model_release.report.release import ReleaseReport, Stage

_WIDTH, _HEIGHT = 640, 160
_ARMS = {"stable": "#8a94a0", "canary": BAR}
_COLOURS = [BAR, "#d98a1f", "#5b9e5f", "#9a6cc0", "#c25b6a", "#6f7d8c"]


def errors_over_time(report: ReleaseReport) -> str | None:
    """Draw the share of failed requests of both arms, look by look, with a rule where a stage began; None if none."""
    return _over_time(
        report, "failed requests (%)", lambda look, arm: _share(look[arm]["errors"], look[arm]["requests"])
    )


def canarys_share(report: ReleaseReport) -> str | None:
    """Draw the share of the requests that the canary had, look by look; None without looks."""

    def share(look: dict[str, Any], arm: str) -> float | None:
        both = look["canary"]["requests"] + look["stable"]["requests"]
        return _share(look["canary"]["requests"], both) if arm == "canary" else None

    return _over_time(report, "of the requests (%)", share, top=100)


def _over_time(report: ReleaseReport, title: str, value: Any, top: float | None = None) -> str | None:
    import altair as alt

    values = [
        {"t": look["t"], "arm": arm, "value": found}
        for stage in report.stages
        for look in stage.looks
        for arm in _ARMS
        if (found := value(look, arm)) is not None
    ]
    if not values:
        return None
    arms = [arm for arm in _ARMS if any(row["arm"] == arm for row in values)]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=arms, range=[_ARMS[arm] for arm in arms]),
        legend=alt.Legend(orient="top", labelColor=INK, symbolType="stroke") if len(arms) > 1 else None,
    )
    high = top or max(1.0, *(1.1 * row["value"] for row in values))
    x = alt.X("t:Q", title="seconds since the release began", axis=alt.Axis(tickCount=8, grid=False))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, high], nice=False), axis=alt.Axis(tickCount=4))
    lines = (
        alt.Chart(alt.Data(values=values)).mark_line(interpolate="linear", strokeWidth=2).encode(x=x, y=y, color=colour)
    )
    return svg(alt.layer(lines, *_beginnings(report)), _WIDTH, _HEIGHT)


def _beginnings(report: ReleaseReport) -> list[Any]:
    """Return a rule and a word at the beginning of each stage."""
    import altair as alt

    rows = [{"at": _began(report, stage), "says": f"{stage.stage} %"} for stage in report.stages]
    base = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("at:Q"))
    rules = base.mark_rule(color=LIMIT, strokeDash=[3, 3], opacity=0.8)
    words = base.mark_text(color=INK, align="left", dx=4, baseline="top").encode(text="says:N", y=alt.value(2))
    return [rules, words]


def _began(report: ReleaseReport, stage: Stage) -> float:
    return (stage.started_at - report.started_at).total_seconds()


def throughput(report: ReleaseReport) -> str | None:
    """Draw the requests a second of each measured tuning at each concurrency; None where nothing was measured."""
    return _measured(report, "throughput_per_s", "requests a second", None)


def latency(report: ReleaseReport) -> str | None:
    """Draw the p99 of each measured tuning at each concurrency, with the objective; None where nothing was measured."""
    limit = (report.benchmark or {}).get("objective_p99_ms")
    return _measured(report, "p99_ms", "p99 (ms)", limit)


def _measured(report: ReleaseReport, field: str, title: str, limit: float | None) -> str | None:
    import altair as alt

    rows = (report.benchmark or {}).get("rows") or []
    values = [
        {"concurrency": str(row["concurrency"]), "value": row[field], "tuning": tuning_in_words(row["tuning"])}
        for row in rows
        if row.get(field) is not None
    ]
    if not values:
        return None
    levels = list(dict.fromkeys(row["concurrency"] for row in values))
    tunings = list(dict.fromkeys(row["tuning"] for row in values))
    shown = limit if limit is not None and limit <= 3 * max(row["value"] for row in values) else None
    high = 1.1 * max([row["value"] for row in values] + [shown or 0.0])
    colour = alt.Color(
        "tuning:N",
        title=None,
        scale=alt.Scale(domain=tunings, range=[_COLOURS[place % len(_COLOURS)] for place in range(len(tunings))]),
        legend=alt.Legend(orient="bottom", columns=1, labelColor=INK, labelLimit=300),
    )
    x = alt.X("concurrency:O", title="concurrency", sort=levels, axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, high], nice=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y, color=colour)
    layers = [base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=60, opacity=1)]
    if shown is not None:
        rule = alt.Chart(alt.Data(values=[{"at": shown}])).mark_rule(color=LIMIT, strokeDash=[6, 4])
        layers.append(rule.encode(y=alt.Y("at:Q")))
    return svg(alt.layer(*layers), 280, _HEIGHT + 20)


def tuning_in_words(tuning: dict[str, Any]) -> str:
    """Return a tuning as a person reads it."""
    count = tuning.get("instance_count", 1)
    sizes = tuning.get("preferred_batch_size") or []
    said = f"{count} instance{'s' if count > 1 else ''}, waits up to {tuning.get('max_queue_delay_microseconds', 0)} µs"
    return f"{said}, prefers {sizes}" if sizes else said


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
