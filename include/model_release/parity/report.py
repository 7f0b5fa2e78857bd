"""
parity.json: what was found when an ONNX file was held against its PyTorch model.

`docs/parity.md` explains each field. A report is written whether the proof held or not, since a failure is what a
person wants to look at. New fields get defaults; `schema_version` rises when a field changes its meaning.
"""

from __future__ import annotations

from typing import Any, Literal

from model_release.errors import revived
from model_release.spec import Section


class Source(Section):
    """The checkpoint that the reference was loaded from."""

    uri: str
    sha256: str


class OnnxFile(Section):
    """The file under test; `files` maps each of its files to its sha256 (weights over 1.8 GB lie beside the graph)."""

    files: dict[str, str]
    size_bytes: int
    opset: int
    precision: Literal["fp32", "fp16"]


class Histogram(Section):
    """Counts of absolute errors: `counts[i]` lie in [edges[i], edges[i + 1]); `zeros` had none; `non_finite` differ."""

    edges: list[float]
    counts: list[int]
    zeros: int = 0
    non_finite: int = 0


class Worst(Section):
    """
    The element that comes closest to its bound, or passes it most, and where to find its sample.

    `index` is the element's place within the sample; `ratio` is error / (atol + rtol * |reference|).
    """

    case: str
    batch_size: int
    place: int
    index: list[int]
    reference: float | None
    answer: float | None
    abs_error: float | None
    ratio: float | None


class AtBatchSize(Section):
    """One output at one batch size."""

    batch_size: int
    elements: int
    differing: int
    max_abs: float


class OutputParity(Section):
    """
    One output against the reference, by one execution provider, over all cases.

    Errors are absolute, over the elements finite in both; quantiles are named p50, p90, p99 and p999. `ulps` are in the
    output's own dtype, None for whole numbers. `cosine_min` is over samples, None where an output is one value a
    sample. `top1_agreement` is the share of samples whose largest value has the same place, None where there are no
    classes. Where a number is not finite it is None.
    """

    output: str
    dtype: str
    provider: str
    atol: float
    rtol: float
    elements: int
    differing: int
    max_abs: float
    quantiles_abs: dict[str, float]
    max_rel: float
    max_ulps: float | None
    p99_ulps: float | None
    cosine_min: float | None
    top1_agreement: float | None
    reference_non_finite: int
    by_batch_size: list[AtBatchSize]
    histogram: Histogram
    worst: Worst | None


class Independence(Section):
    """One output: each sample alone against itself among others (`neighbours`) and at every place (`place`)."""

    output: str
    provider: str
    batch_size: int
    against: Literal["neighbours", "place"]
    elements: int
    differing: int
    max_abs: float


class AccuracyComparison(Section):
    """
    Paired comparison on the golden set with `against`: PyTorch's own answers, or stable's version.

    `only_this_right` and `only_other_right` are the discordant pairs; `difference` is this accuracy - the other's, and
    `lower_bound` its one-sided lower confidence bound at the level 1 - `alpha`. Non-inferior: lower_bound > -margin.
    """

    against: str
    other_accuracy: float
    only_this_right: int
    only_other_right: int
    difference: float
    lower_bound: float
    margin: float
    alpha: float
    non_inferior: bool
    needed_samples: int | None


class AccuracyReport(Section):
    """The ONNX file on the golden set."""

    golden_set: str
    samples: int
    accuracy: float
    minimum: float
    comparisons: list[AccuracyComparison]


class EmbeddingReport(Section):
    """
    Whether the vectors still live in the space of stable's.

    Cosines are between both versions' vectors of one sample; agreement is the mean share of common nearest neighbours.
    """

    output: str
    against: str
    samples: int
    cosine_min: float
    cosine_p01: float
    cosine_mean: float
    neighbours: int
    neighbour_agreement: float
    same_space: bool
    required: bool


class Failure(Section):
    """Why the proof did not hold: the name of an error of `model_release.errors`, and its sentence."""

    error: str
    message: str


class ParityReport(Section):
    """The evidence of one proof; `passed` is whether it held, `failures` say why not."""

    schema_version: Literal[1] = 1
    model: str
    version: int | None = None
    passed: bool
    failures: list[Failure]
    source: Source
    onnx: OnnxFile
    providers: list[str]
    outputs: list[OutputParity]
    batch_independence: list[Independence]
    deterministic: bool
    accuracy: AccuracyReport | None = None
    embedding: EmbeddingReport | None = None
    real_samples: int
    cases: list[str]
    seed: int
    versions: dict[str, str]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return what fits into a message between tasks and into a manifest."""
        return {
            "passed": self.passed,
            "max_abs": {f"{found.output} ({found.provider})": found.max_abs for found in self.outputs},
            "batch_independent": not any(found.differing for found in self.batch_independence),
            "accuracy": self.accuracy.accuracy if self.accuracy else None,
            "same_space": self.embedding.same_space if self.embedding else None,
            "real_samples": self.real_samples,
            "seconds": round(self.seconds, 1),
        }

    def raise_for_failure(self) -> None:
        """Raise the first failure as the error that it is; nothing happens when the proof held."""
        if self.failures:
            first, more = self.failures[0], len(self.failures) - 1
            others = f" ({more} more in the report.)" if more else ""
            raise revived(first.error, first.message + others)
