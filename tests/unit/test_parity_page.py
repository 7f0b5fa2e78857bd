"""The page of a parity report: whole without a network, honest about a failure, and safe with any text."""

from __future__ import annotations

import re
import subprocess
import sys
import types
import typing
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_release.parity import report as schema
from model_release.report import charts, numbers
from model_release.report.parity_page import write_parity_page
from model_release.spec import Section
from model_release.spec.proof import default_tolerance

DOCS = Path(__file__).parents[2] / "docs" / "parity.md"
HOSTILE = "<script>alert(1)</script>"
_VOID = {"meta", "br"}


def output(name: str = "logits", **changes: Any) -> dict[str, Any]:
    worst = {
        "case": "batch size 1: random values", "batch_size": 1, "place": 0, "index": [3], "reference": 1.5,
        "answer": 1.5001, "abs_error": 1e-4, "ratio": 0.0625, "reference_text": "1.5", "answer_text": "1.5001",
    }  # fmt: skip
    return {
        "output": name, "dtype": "float32", "provider": "cpu", "atol": 1e-4, "rtol": 1e-3, "elements": 12345,
        "differing": 0, "max_abs": 1e-4, "quantiles_abs": {"p50": 0.0, "p90": 1e-6, "p99": 1e-5, "p999": 5e-5},
        "max_rel": 1e-3, "max_ulps": 12.0, "p99_ulps": 4.0, "cosine_min": 0.9999999, "top1_agreement": 1.0,
        "reference_non_finite": 0,
        "by_batch_size": [{"batch_size": 64, "elements": 12345, "differing": 0, "max_abs": 1e-4}],
        "histogram": {"edges": [1e-6, 1e-5, 1e-4], "counts": [3, 1], "zeros": 12341}, "worst": worst,
        "worst_cases": [worst], **changes,
    }  # fmt: skip


def report(**changes: Any) -> schema.ParityReport:
    return schema.ParityReport.model_validate(
        {
            "model": "toy", "version": 20260101000000, "passed": True, "failures": [],
            "source": {"uri": "s3://training/toy/model.safetensors", "sha256": "ab" * 32},
            "onnx": {"files": {"model.onnx": "cd" * 32}, "size_bytes": 1_500_000, "opset": 20, "precision": "fp32"},
            "providers": ["cpu"], "outputs": [output()],
            "batch_independence": [
                {"output": "logits", "provider": "cpu", "batch_size": 8, "against": "neighbours", "elements": 80,
                 "differing": 0, "max_abs": 0.0}
            ],
            "deterministic": True, "real_samples": 64, "cases": ["batch size 1: random values"], "batching": 8,
            "seed": 7, "versions": {"torch": "2.13"}, "seconds": 1.25, "worst_samples": "worst.npz", **changes,
        }
    )  # fmt: skip


def page(made: schema.ParityReport, folder: Path) -> str:
    write_parity_page(made, folder / "parity.html")
    return (folder / "parity.html").read_text()


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(report(), tmp_path_factory.mktemp("page"))


class Balanced(HTMLParser):
    """Fails on a tag that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_the_network_for_nothing(passed: str) -> None:
    parser = Balanced()
    parser.feed(passed)
    assert parser.open == []
    assert re.findall(r"(?:src|href|url\(|@import)\s*=?\s*[\"']?(?:https?:)?//", passed) == []
    assert "<script" not in passed


def test_a_proof_that_held_says_so_with_its_numbers(passed: str) -> None:
    assert "<strong>Equal.</strong>" in passed
    for words in ("12\u202f345", "0.0001 + 0.001", "1.5001", "6.25\u202f%", "worst.npz", "opset 20", "64 of the user"):
        assert words in passed
    assert passed.count("<svg") == 2
    assert "Embedding space" not in passed
    assert "Accuracy" not in passed


def test_pictures_say_in_words_what_they_show_and_tables_what_they_hold(passed: str) -> None:
    assert len(re.findall(r'<div role="img" aria-label="[^"]{20,}"><svg', passed)) == passed.count("<svg")
    tables = re.findall(r"<table.*?</table>", passed, re.DOTALL)
    assert all("<caption>" in table for table in tables[1:])
    assert all('scope="' in cell for cell in re.findall(r"<th\b[^>]*>", passed))


def test_fonts_are_on_every_machine(passed: str) -> None:
    fonts = set(re.findall(r'font-family="([^"]*)"', passed))
    assert fonts == {"sans-serif"}


def test_each_output_has_its_section_and_its_pictures_and_the_overview_leads_there(tmp_path: Path) -> None:
    sizes = [{"batch_size": size, "elements": 10, "differing": 0, "max_abs": 1e-5} for size in (1, 8)]
    text = page(report(outputs=[output("boxes", by_batch_size=sizes), output("scores", differing=3)]), tmp_path)
    boxes, scores = re.findall(r'<section id="output-\d+">.*?</section>', text, re.DOTALL)
    assert (boxes.count("<svg"), scores.count("<svg")) == (3, 2)
    assert "Output boxes" in boxes
    assert "Output scores" in scores
    assert re.findall(r'<a href="(#[^"]*)">(\w+)</a></td><td>cpu</td><td>(.*?)</td>', text) == [
        ("#output-1", "boxes", "equal"), ("#output-2", "scores", '<span class="bad">differs</span>')
    ]  # fmt: skip
    assert len(text) < 100_000


def test_the_lines_that_open_the_worst_sample_run(tmp_path: Path) -> None:
    name = 'lo"g\\its</pre>'
    text = page(report(outputs=[output(name)]), tmp_path)
    saved: dict[str, Any] = {f"{name}.reference": np.ones(1, bool), f"{name}.answer": np.zeros(1, bool)}
    np.savez(tmp_path / "worst.npz", **saved)
    lines = unescape(re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)[0])
    ran = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["[", "True]", "[False]"], ran.stderr


def test_the_same_report_gives_the_same_bytes(passed: str, tmp_path: Path) -> None:
    assert page(report(), tmp_path) == passed


def test_every_failure_is_told_the_first_as_the_verdict(tmp_path: Path) -> None:
    failures = [{"error": "ParityFailed", "message": "first"}, {"error": "BatchDependent", "message": "second"}]
    text = page(report(passed=False, failures=failures), tmp_path)
    assert "<strong>Not equal.</strong> First" in text
    assert "<li>Second" in text


def test_a_file_that_answers_as_pytorch_is_not_called_unequal(tmp_path: Path) -> None:
    failures = [{"error": "EmbeddingMoved", "message": "the vectors moved"}]
    text = page(report(passed=False, failures=failures, outputs=[]), tmp_path)
    assert "<strong>Refused.</strong> The vectors moved" in text


def test_texts_of_users_are_never_markup(tmp_path: Path) -> None:
    worst = {**output()["worst"], "case": HOSTILE}
    compared = {
        "against": HOSTILE, "other_accuracy": 0.98, "only_this_right": 2, "only_other_right": 5, "difference": -0.01,
        "lower_bound": -0.035, "margin": 0.03, "alpha": 0.05, "non_inferior": False, "needed_samples": None,
    }  # fmt: skip
    hostile = report(
        model=HOSTILE,
        accuracy={"golden_set": HOSTILE, "samples": 3, "accuracy": 1.0, "minimum": 0, "comparisons": [compared]},
        worst_samples=HOSTILE,
        passed=False,
        failures=[{"error": HOSTILE, "message": HOSTILE}, {"error": "x", "message": HOSTILE}],
        outputs=[output(HOSTILE, worst=worst, worst_cases=[worst])],
        cases=[HOSTILE],
        notes=[HOSTILE],
    )
    text = page(hostile, tmp_path)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 9


def test_numbers_that_are_none_or_not_there_leave_no_hole(tmp_path: Path) -> None:
    worst = {**output()["worst"], "reference": None, "abs_error": None, "ratio": None, "reference_text": "nan"}
    bare = output(
        max_ulps=None, p99_ulps=None, cosine_min=None, top1_agreement=None, worst=worst, worst_cases=[worst],
        histogram={"edges": [], "counts": []}, reference_non_finite=2, new_non_finite=1,
    )  # fmt: skip
    text = page(report(version=None, outputs=[bare, output("second", worst=None, worst_cases=[])]), tmp_path)
    assert "None" not in text
    assert ">nan<" in text
    assert "1 of the ONNX file where PyTorch has a number" in text


def test_a_noisy_model_has_no_outputs_and_says_why(tmp_path: Path) -> None:
    noise = [
        {"provider": "pytorch", "output": "y", "max_abs": 0.3, "beyond_tolerance": True, "blame": "drop (Dropout)"}
    ]
    text = page(report(passed=False, failures=[{"error": "NotDeterministic", "message": "noise"}], outputs=[],
                       batch_independence=[], noise=noise, worst_samples=None), tmp_path)  # fmt: skip
    assert "drop (Dropout)" in text
    assert "Batch independence" not in text


def test_accuracy_and_embedding_show_what_was_got_and_asked(tmp_path: Path) -> None:
    accuracy = {
        "golden_set": "s3://golden.npz", "samples": 300, "accuracy": 0.97, "minimum": 0.9,
        "comparisons": [
            {"against": "stable's version 5", "other_accuracy": 0.98, "only_this_right": 2, "only_other_right": 5,
             "difference": -0.01, "lower_bound": -0.035, "margin": 0.03, "alpha": 0.05, "non_inferior": False,
             "needed_samples": 900}
        ],
    }  # fmt: skip
    embedding = {
        "output": "logits", "against": "version 5", "samples": 64, "dimension": 384, "other_dimension": 384,
        "cosine_min": 0.1, "cosine_p01": 0.2, "cosine_mean": 0.5, "min_cosine": 0.98, "neighbours": 10,
        "neighbour_agreement": 0.3, "min_neighbour_agreement": 0.8, "same_space": False, "required": True,
    }  # fmt: skip
    text = page(report(accuracy=accuracy, embedding=embedding), tmp_path)
    assert text.count("<svg") == 3
    for words in (
        "97.00\u202f%",
        "-3.50",
        "not proved",
        "900 samples could",
        "do not lie in the space",
        "at least 0.98",
    ):
        assert words in text


def test_a_small_set_where_no_right_answer_is_lost_claims_no_confidence(tmp_path: Path) -> None:
    same = {
        "against": "pytorch", "other_accuracy": 1.0, "only_this_right": 0, "only_other_right": 0, "difference": 0.0,
        "lower_bound": -0.2, "margin": 0.02, "alpha": 0.05, "non_inferior": True, "needed_samples": None,
    }  # fmt: skip
    accuracy = {"golden_set": "g", "samples": 10, "accuracy": 1.0, "minimum": 0.0, "comparisons": [same]}
    text = page(report(outputs=[], accuracy=accuracy), tmp_path)
    assert "yes, no right answer is lost" in text
    assert "yes, at" not in text


def test_a_dependence_without_batching_is_told_as_harmless(tmp_path: Path) -> None:
    row = {"output": "logits", "provider": "cpu", "batch_size": 3, "against": "place", "elements": 8, "differing": 8,
           "max_abs": 0.5}  # fmt: skip
    text = page(report(batch_independence=[row, {**row, "provider": "pytorch"}], batching=0), tmp_path)
    assert "and the PyTorch model does not either" in text
    assert "this fails nothing" in text


def test_importing_the_reports_imports_nothing_heavy() -> None:
    code = (
        "import sys, model_release.report.parity_page;"
        "sys.exit(bool({'torch', 'onnxruntime', 'altair', 'vl_convert'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "\u2013"), (float("nan"), "not finite"), (float("-inf"), "not finite"), (0.0, "0"), (1e-06, "1e-6"),
     (0.00012345, "0.000123"), (1234.5, "1\u202f230"), (999.6, "1\u202f000"), (2.5e7, "2.5e7"), (-1234, "-1\u202f230")],
)  # fmt: skip
def test_figures_have_three_digits_and_are_never_nan(value: float | None, says: str) -> None:
    assert numbers.figure(value) == says


@pytest.mark.parametrize(
    ("ratio", "says"), [(None, "\u2013"), (0.0625, "6.25\u202f%"), (48.0, "48 times"), (float("inf"), "not finite")]
)
def test_what_is_far_beyond_the_allowed_is_told_in_times(ratio: float | None, says: str) -> None:
    assert numbers.of_allowed(ratio) == says


@pytest.mark.parametrize(
    ("low", "high"), [(1e-9, 1e-4), (2e-5, 4e-5), (3e-5, 4e-5), (1e-30, 1e30), (0.5, 96.0), (1.0, 1.0)]
)
def test_an_axis_has_a_few_ticks_within_its_ends(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 0 < len(found) <= 7
    assert all(low <= tick <= high for tick in found)


def kind(hint: Any) -> str:
    """Return a field's type in the words of the documentation."""
    inner = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType:
            return " or ".join("null" if part is type(None) else kind(part) for part in inner)
        case typing.Literal:
            return kind(type(inner[0]))
        case origin if origin is list:
            return f"list of {kind(inner[0])}"
        case origin if origin is dict:
            return f"object of {kind(inner[1])}"
    return {str: "text", int: "integer", float: "number", bool: "boolean"}.get(hint) or hint.__name__


def test_every_field_of_the_report_is_explained_with_its_type_and_no_other() -> None:
    parts = re.findall(r"^### ([A-Z]\w+)$(.*?)(?=^##)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    told = {name: dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| .", text, re.MULTILINE)) for name, text in parts}
    models = {
        name: value for name, value in vars(schema).items()
        if isinstance(value, type) and issubclass(value, Section) and value is not Section
    }  # fmt: skip
    assert told == {
        name: {field: kind(info.annotation) for field, info in model.model_fields.items()}
        for name, model in models.items()
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_documented_tolerances_are_those_that_are_used(dtype: Any) -> None:
    row = re.search(rf"^\| {dtype} \|(.*)$", DOCS.read_text(), re.MULTILINE)
    assert row
    numbers_told = [float(number) for number in re.findall(r"\d+e-\d+", row[1])]
    used = [default_tolerance(dtype, "fp32"), default_tolerance(dtype, "fp16")]
    assert numbers_told == [number for tolerance in used for number in (tolerance.atol, tolerance.rtol)]
