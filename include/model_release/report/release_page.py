"""The page of a release's report: one HTML file that needs nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from model_release.report import charts, release_charts
from model_release.report.page import render_page
from model_release.report.release import RELEASED, RUNNING, ReleaseReport, parity_of
from model_release.report.timeline import sentence

_TEMPLATE = "release.html.j2"


def release_page(report: ReleaseReport) -> str:
    """Return a report as HTML with its styles and pictures inside; the same report gives the same text."""
    parity = parity_of(report)
    return render_page(
        _TEMPLATE,
        report=report,
        good=report.outcome == RELEASED,
        running=report.outcome == RUNNING,
        timeline=[(_after(report, event), event, sentence(event)) for event in report.events],
        shares=release_charts.canarys_share(report),
        errors=release_charts.errors_over_time(report),
        throughput=release_charts.throughput(report),
        latency=release_charts.latency(report),
        tuning_in_words=release_charts.tuning_in_words,
        parity=parity,
        outputs=_outputs(parity),
    )


def _outputs(parity: Any) -> list[dict[str, Any]]:
    found = parity.outputs if parity is not None else []
    return [
        {"found": each, "histogram": charts.error_histogram(each), "sizes": charts.by_batch_size(each)}
        for each in found
    ]


def _after(report: ReleaseReport, event: dict[str, Any]) -> str:
    """Return how long after the beginning an event was, as m:ss or h:mm:ss."""
    seconds = max(0, round((datetime.fromisoformat(event["at"]) - report.started_at).total_seconds()))
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
