"""
parity.json: what was found when an ONNX file was held against its PyTorch model.

`docs/parity.md` explains each field. A report is written whether the proof held or not, since a failure is what a
person wants to look at. New fields get defaults; `schema_version` rises when a field changes its meaning.
"""

from __future__ import annotations

from typing import Any, Literal

from model_release.errors import revived
from model_release.spec import Section

#: The `provider` of rows that speak of the PyTorch model itself.
PYTORCH = "pytorch"


class Source(Section):
    """The checkpoint that the reference was loaded from."""

    uri: str
    sha256: str


class OnnxFile(Section):
    """
    The file under test; `files` maps each of its files to its sha256 (weights over 1.8 GB lie beside the graph).

    A `torchscript` has no opset, which is then 0, and the precision of its own tensors.
    """

    kind: Literal["onnx", "torchscript"] = "onnx"
    files: dict[str, str]
    size_bytes: int
    opset: int
    precision: Literal["fp32", "fp16"]


class Histogram(Section):
    """
    Counts of absolute errors in bins of a quarter of a decade: `counts[i]` lie in [edges[i], edges[i + 1]).

    `zeros` had no error. `non_finite` have NaN or an infinity on one side that the other does not have; such an element
    has no error in figures. Without errors both lists are empty.
    """

    edges: list[float]
    counts: list[int]
    zeros: int = 0
    non_finite: int = 0


class Worst(Section):
    """
    The element that comes closest to its bound, or passes it most, and where to find its sample.

    `case` says what the sample is, `place` is its place in a batch of `batch_size`, from 0, and `index` the element's
    place within the sample. `ratio` is abs_error / (atol + rtol * |reference|). A figure that is not finite, or has no
    bound to be held against, is None; `reference_text` and `answer_text` always say the value ("nan", "-inf", "2.5").
    """

    case: str
    batch_size: int
    place: int
    index: list[int]
    reference: float | None
    answer: float | None
    abs_error: float | None
    ratio: float | None
    reference_text: str = ""
    answer_text: str = ""


class AtBatchSize(Section):
    """One output at one batch size."""

    batch_size: int
    elements: int
    differing: int
    max_abs: float


class OutputParity(Section):
    """
    One output against the reference, by one execution provider, over all cases.

    `differing` elements are beyond |answer - reference| <= atol + rtol * |reference|, or not finite on one side alone.
    Errors are absolute, over the elements finite in both. Quantiles are named p50, p90, p99 and p999; they and
    `p99_ulps` come from a logarithmic histogram, and are at most 4 % too large. `max_rel` is over references other than
    0. `ulps` are steps between neighbouring numbers of the output's own dtype, None for whole numbers and booleans.
    `cosine_min` is over samples, None where a sample has one value. `top1_agreement` is the share of samples whose
    largest value has the same place, None where a sample is no vector of floats.

    `reference_non_finite` counts NaN and infinities that PyTorch itself answers; `new_non_finite` those of the ONNX
    file where PyTorch has a number. `worst` is the first of `worst_cases`, the worst elements of up to five cases,
    the worst first; its sample is in the file of worst samples.
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
    new_non_finite: int = 0
    by_batch_size: list[AtBatchSize]
    histogram: Histogram
    worst: Worst | None
    worst_cases: list[Worst] = []


class Noise(Section):
    """
    An output that two runs on the same input do not agree on.

    `provider` is pytorch, or the execution provider; `blame` says which modules, operators or nodes draw random
    numbers, and is empty where none could be found. Noise within the tolerance does not fail the proof.
    """

    provider: str
    output: str
    max_abs: float
    beyond_tolerance: bool
    blame: str


class Independence(Section):
    """
    One output in a batch of `batch_size`: `neighbours` compares samples among others with themselves alone, `place`
    the same batch turned, so that every sample has another place.

    `provider` is pytorch for the rows that say whether the PyTorch model itself depends on its batch; they are there
    only where the ONNX file does.
    """

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
    `lower_bound` its one-sided lower confidence bound at the level 1 - `alpha` (Tango's score interval). Non-inferior:
    lower_bound > -margin. Against PyTorch, whose weights are the same, it is enough that no right answer is lost.
    `needed_samples` would prove it if the discordance stayed as it is and the difference were 0; None where it is
    proved, or where no number would do (margin 0).
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

    Cosines are between both versions' vectors of one sample; agreement is the mean share of common nearest neighbours,
    the sample itself excluded. They are None where the dimensions differ, which is another space by itself. It is the
    same space when 99 % of the cosines reach min_cosine (`cosine_p01`) and the agreement its own minimum.
    """

    output: str
    against: str
    samples: int
    generated: bool = False
    dimension: int
    other_dimension: int
    cosine_min: float | None
    cosine_p01: float | None
    cosine_mean: float | None
    min_cosine: float
    neighbours: int
    neighbour_agreement: float | None
    min_neighbour_agreement: float
    same_space: bool
    required: bool


class Failure(Section):
    """Why the proof did not hold: the name of an error of `model_release.errors`, and its sentence."""

    error: str
    message: str


class ParityReport(Section):
    """
    The evidence of one proof; `passed` is whether it held, `failures` say why not, the most important first.

    `deterministic` is whether PyTorch and ONNX Runtime gave the very same answer twice; with noise beyond the tolerance
    nothing else is compared, and `outputs` and `batch_independence` are empty. `cases` say what was run, in order, and
    `notes` what was not run, and why. `real_samples` counts the user's samples that were compared. `batching` is
    serving.max_batch_size: with 0 a dependence on the batch is reported and fails nothing.
    `worst_samples` is the name of the .npz of each output's worst sample: `<output>.input.<name>`,
    `<output>.reference` and `<output>.answer`, each with a batch axis of 1; None where none was written.
    """

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
    noise: list[Noise] = []
    accuracy: AccuracyReport | None = None
    embedding: EmbeddingReport | None = None
    real_samples: int
    cases: list[str]
    notes: list[str] = []
    batching: int = 0
    worst_samples: str | None = None
    seed: int
    versions: dict[str, str]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return what fits into a message between tasks and into a manifest."""
        return {
            "passed": self.passed,
            "max_abs": {f"{found.output} ({found.provider})": found.max_abs for found in self.outputs},
            "batch_independent": not any(
                found.differing for found in self.batch_independence if found.provider != PYTORCH
            ),
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
