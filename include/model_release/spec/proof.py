"""`export`, `parity`, `accuracy` and `embedding`: how the ONNX file is made, and what has to be proved of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from model_release.spec.section import Section
from model_release.spec.tensors import Dtype


class Export(Section):
    """
    How the ONNX graph is made.

    With `precision: fp16` weights and activations are float16; inputs and outputs keep the spec's dtypes, and the ONNX
    operators named in `keep_fp32` (types such as Softmax, or names of nodes) stay float32.
    """

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    precision: Literal["fp32", "fp16"] = "fp32"
    keep_fp32: list[str] = []

    @model_validator(mode="after")
    def _kept_of_what(self) -> Export:
        if self.keep_fp32 and self.precision == "fp32":
            message = f"keep_fp32 {self.keep_fp32} needs precision: fp16; everything is float32 already"
            raise ValueError(message)
        return self


class Tolerance(Section):
    """How far an answer may be from the reference: |a - b| <= atol + rtol * |reference|, element by element."""

    atol: Annotated[float, Field(ge=0)]
    rtol: Annotated[float, Field(ge=0)]

    def __str__(self) -> str:
        return f"{self.atol:g} + {self.rtol:g} * |reference|"


_EXACT = Tolerance(atol=0, rtol=0)
_HALF = Tolerance(atol=1e-2, rtol=1e-2)
_SINGLE = Tolerance(atol=1e-4, rtol=1e-3)
_DOUBLE = Tolerance(atol=1e-7, rtol=1e-6)
#: A graph's float32 outputs went through float16 when the graph did.
_DEFAULT_TOLERANCES = {
    "fp32": {"float16": _HALF, "float32": _SINGLE, "float64": _DOUBLE},
    "fp16": {"float16": _HALF, "float32": _HALF, "float64": _HALF},
}


def default_tolerance(dtype: Dtype, precision: Literal["fp32", "fp16"]) -> Tolerance:
    """Return the tolerance of an output that the spec says nothing of; whole numbers and booleans are exact."""
    return _DEFAULT_TOLERANCES[precision].get(dtype, _EXACT)


class Parity(Section):
    """
    How equal ONNX and PyTorch must be.

    `atol` and `rtol` are for every output that is no whole number, `outputs` for single ones by name; what neither says
    has a default by dtype and precision. `batch_sizes` are by default 1, 3 and the largest that is served. `providers`
    are the execution providers that must agree: by default CPU, and CUDA where the model is served on a GPU and this
    machine has one.
    """

    atol: Annotated[float, Field(ge=0)] | None = None
    rtol: Annotated[float, Field(ge=0)] | None = None
    outputs: dict[str, Tolerance] = {}
    batch_sizes: list[Annotated[int, Field(ge=1)]] = []
    samples: str | None = None
    seed: Annotated[int, Field(ge=0)] = 7
    providers: list[Literal["cpu", "cuda", "tensorrt"]] = []


class Accuracy(Section):
    """
    The golden set (an .npz of the inputs by name, and `label`), and how much worse than stable is allowed.

    The share of right answers must be non-inferior to stable's within `margin`, by a paired test at the level `alpha`,
    and at least `minimum`. `output` is the one whose largest value names the class: by default the first.
    """

    golden_set: str
    metric: Literal["top1"] = "top1"
    output: str | None = None
    margin: Annotated[float, Field(ge=0, le=1)] = 0.02
    minimum: Annotated[float, Field(ge=0, le=1)] = 0.0
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


class Embedding(Section):
    """
    Whether a new version's vectors still live in the space of stable's, where clients have indexes of old vectors.

    Measured on the samples: the cosine between the two versions' vectors of one sample, of which 99 % must reach
    `min_cosine`, and the share of each sample's `neighbours` nearest that both versions agree on. With
    `same_space: required` a break stops the release.
    """

    output: str | None = None
    same_space: Literal["required", "reported"] = "reported"
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.98
    neighbours: Annotated[int, Field(ge=1)] = 10
    min_neighbour_agreement: Annotated[float, Field(ge=0, le=1)] = 0.8
