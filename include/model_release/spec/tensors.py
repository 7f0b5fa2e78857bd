"""`inputs`, `outputs` and `dynamic_axes`: the contract of a model with its clients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from model_release.spec.section import Section

#: numpy names of the tensor types that a spec may name, and `string`; Triton's names are derived from them.
Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "string",
]  # fmt: skip
TEXT = "string"
"""Text, Triton's TYPE_STRING: arrays of it are numpy's `U`."""


class Tensor(Section):
    """An input or output, without its batch axis; a name in `shape` is a dynamic axis."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")]
    dtype: Dtype
    shape: list[Annotated[int, Field(ge=1)] | Annotated[str, StringConstraints(pattern=r"^[a-z_]\w*$")]]


class Input(Tensor):
    """An input; `range` bounds the values generated for it, both ends included, `examples` lend texts their words."""

    range: tuple[float, float] | None = None
    examples: list[str] = []
    optional: bool = False

    @model_validator(mode="after")
    def _required(self) -> Input:
        """
        Refuse what no export makes.

        Triton's ONNX Runtime backend takes a request without an input only if the graph has a default for it (an
        initializer of the same name), and then only with max_batch_size 0; exported graphs have none.
        """
        if self.optional:
            message = (
                f"input {self.name!r} is optional, and an exported graph wants each of its inputs: leave it out of the "
                "spec and give forward's argument a default, or have clients send it always"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _of_its_type(self) -> Input:
        if self.dtype == TEXT and self.range is not None:
            message = f"input {self.name!r} is text and has no range; examples says what texts are like"
            raise ValueError(message)
        if self.dtype != TEXT and self.examples:
            message = f"examples are for texts, and input {self.name!r} is {self.dtype}; range bounds its values"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _rising_range(self) -> Input:
        if self.range is not None and self.range[0] > self.range[1]:
            message = f"range {list(self.range)} of input {self.name!r} must rise"
            raise ValueError(message)
        return self


class Axis(Section):
    """The sizes that a dynamic axis may take."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _rising(self) -> Axis:
        if self.min >= self.max:
            message = f"min {self.min} must be below max {self.max}"
            raise ValueError(message)
        return self
