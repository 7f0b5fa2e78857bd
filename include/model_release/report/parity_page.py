"""parity.html: a parity report for a person who has to decide something by it."""

from __future__ import annotations

from pathlib import Path

from model_release.parity.report import PYTORCH, ParityReport, Worst
from model_release.report import charts
from model_release.report.page import write_page

_TEMPLATE = "parity.html.j2"
#: Failures that say that the answers differ; others refuse a file that answers as PyTorch does.
_UNEQUAL = {"ParityFailed", "NotFinite", "OutputMisdeclared", "OnnxUnusable"}


def write_parity_page(report: ParityReport, path: Path) -> None:
    """
    Write a report as one HTML file that needs nothing else: styles and pictures are inside.

    The same report gives the same bytes. All texts are escaped: names and error messages come from users' models.
    """
    outputs = [
        {
            "found": found,
            "histogram": charts.error_histogram(found),
            "sizes": charts.by_batch_size(found),
            "worst": charts.worst_cases(found),
        }
        for found in report.outputs
    ]
    own = [row for row in report.batch_independence if row.provider == PYTORCH]
    write_page(
        _TEMPLATE,
        path,
        report=report,
        outputs=outputs,
        unequal=bool(report.failures) and report.failures[0].error in _UNEQUAL,
        closest=_closest(report),
        dependent=[row for row in report.batch_independence if row.differing and row.provider != PYTORCH],
        module_dependent=any(row.differing for row in own),
        saved=[found.output for found in report.outputs if found.worst],
        differences=charts.accuracy_differences(report.accuracy) if report.accuracy else None,
    )


def _closest(report: ParityReport) -> tuple[str, Worst] | None:
    """Return the output and the element that use most of what is allowed."""
    found = [(output.output, output.worst) for output in report.outputs if output.worst and output.worst.ratio]
    return max(found, key=lambda pair: pair[1].ratio or 0.0) if found else None
