"""What a person reads who has to decide about a release: Markdown, a screen long."""

from __future__ import annotations

from datetime import datetime

from model_release.report.numbers import figure, percent
from model_release.report.release import ReleaseReport, parity_of

_SPECIAL = "\\`*_{}[]<>#|!"


def evidence(report: ReleaseReport, until: datetime | None, asked: str = "") -> str:
    """Return what is known of a release that waits until then; `asked` is why it waits. Texts are escaped."""
    lines = [
        *([_plain(asked), ""] if asked else []),
        f"**{report.kind} {_plain(report.model)} {report.version}**, asked by {_plain(report.by or 'nobody named')}"
        + (f": {_plain(report.reason)}" if report.reason else ""),
        "",
        f"- stable now: {report.stable_before or 'nothing'}; the canary's fleet: {report.fleet}",
        f"- checkpoint: {_plain(report.checkpoint)}",
        *_of_parity(report),
        *_of_benchmark(report),
        *_of_stages(report),
        *(["", f"No answer until {until:%Y-%m-%d %H:%M:%S} UTC is a no."] if until else []),
    ]
    return "\n".join(lines)


def _of_parity(report: ReleaseReport) -> list[str]:
    parity = parity_of(report)
    if parity is None:
        return []
    worst = max((found.max_abs for found in parity.outputs if found.max_abs is not None), default=None)
    held = "holds" if parity.passed else "**does not hold**"
    return [f"- parity {held}: the largest error is {figure(worst)} in {len(parity.cases)} batches"]


def _of_benchmark(report: ReleaseReport) -> list[str]:
    lines = []
    if report.benchmark:
        best = report.benchmark["best"]
        lines.append(
            f"- on bench: {figure(best['throughput_per_s'])} requests a second, p99 {figure(best['p99_ms'])} ms "
            f"(asked {figure(report.benchmark['objective_p99_ms'])} ms)"
        )
    if report.accuracy:
        against = "; ".join(
            f"against {_plain(str(other['against']))} {100 * other['difference']:+.2f} points"
            for other in report.accuracy.get("accuracy_comparisons") or []
        )
        lines.append(f"- accuracy {percent(report.accuracy['accuracy'])}{f', {against}' if against else ''}")
    return lines


def _of_stages(report: ReleaseReport) -> list[str]:
    return [
        f"- {stage.stage} %: canary {stage.errors['canary']} of {stage.requests['canary']} requests failed, stable "
        f"{stage.errors['stable']} of {stage.requests['stable']}"
        + (f"; {stage.verdict['verdict']}: {_plain(stage.verdict['reason'])}" if stage.verdict else "")
        for stage in report.stages
    ]


def _plain(text: str) -> str:
    """Return a text with nothing in it that Markdown reads."""
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in " ".join(text.split()))
