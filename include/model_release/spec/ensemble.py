"""`serving.ensemble`: several Triton models behind one name, and how data goes through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from model_release.spec.section import Section
from model_release.spec.tensors import Input, Tensor

#: Between an ensemble's name and a part's, in the name of the part's Triton model.
BETWEEN = "__"


def _no_double_underscore(name: str) -> str:
    if BETWEEN in name:
        message = f"{name!r} holds '{BETWEEN}', which stands between the names of an ensemble and of its part"
        raise ValueError(message)
    return name


PartName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40),
    AfterValidator(_no_double_underscore),
]
TensorMap = Annotated[dict[str, str], Field(min_length=1)]


class PartInstances(Section):
    """Triton's instance_group of a part in Python: each instance is a process of its own."""

    kind: Literal["cpu", "gpu", "auto"] = "cpu"
    count: Annotated[int, Field(ge=1)] = 1


class Part(Section):
    """
    One Triton model of an ensemble.

    `config` names another model config of the folder: the part is built and proved from its checkpoint, as a release of
    it would be. `python` is a folder of the repository, `include/...`, with a `model.py` for Triton's Python backend;
    `inputs` and `outputs` of such a part are those that it is connected to, unless they are given.
    """

    config: str | None = None
    python: Annotated[str, StringConstraints(pattern=r"^include(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+/?$")] | None = None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    instance_group: PartInstances | None = None
    spec: dict[str, Any] | None = None
    """The whole config that `config` names, as it was when the ensemble's was read; nobody writes it by hand."""

    @model_validator(mode="after")
    def _one_kind(self) -> Part:
        if (self.config is None) == (self.python is None):
            message = "a part is either {config: OTHER} or {python: include/.../folder}"
            raise ValueError(message)
        if self.config is not None and (self.inputs or self.outputs or self.instance_group):
            message = (
                f"inputs, outputs and instance_group of a part are those of its config, {self.config!r}; remove them"
            )
            raise ValueError(message)
        return self


class EnsembleStep(Section):
    """One use of a part: which tensor of the ensemble each of its inputs takes, and which each of its outputs makes."""

    part: str
    inputs: TensorMap
    outputs: TensorMap


class Ensemble(Section):
    """The parts, and the steps in any order: data decides which runs when."""

    parts: Annotated[dict[PartName, Part], Field(min_length=1)]
    steps: Annotated[list[EnsembleStep], Field(min_length=1)]

    @property
    def is_resolved(self) -> bool:
        """Whether each config that a part names has been read."""
        return all(part.config is None or part.spec is not None for part in self.parts.values())


@dataclass(frozen=True)
class Face:
    """What a part takes and gives, and how many samples at once; None: what it is connected to."""

    inputs: Sequence[Tensor] | None
    outputs: Sequence[Tensor] | None
    max_batch_size: int | None = None


def ordered(ensemble: Ensemble) -> list[EnsembleStep]:
    """Return the steps so that each comes after those that make its inputs. Raises ValueError for a cycle."""
    made_by = {tensor: step for step in ensemble.steps for tensor in step.outputs.values()}
    done: list[EnsembleStep] = []
    waiting = list(ensemble.steps)
    while waiting:
        ready = [
            step for step in waiting if all(made_by.get(tensor) in (None, *done) for tensor in step.inputs.values())
        ]
        if not ready:
            names = " -> ".join(step.part for step in waiting)
            message = f"steps wait for each other in a cycle: {names} -> {waiting[0].part}"
            raise ValueError(message)
        done += ready
        waiting = [step for step in waiting if step not in ready]
    return done


def problems_of(
    ensemble: Ensemble,
    inputs: Sequence[Input],
    outputs: Sequence[Tensor],
    max_batch_size: int,
    faces: Mapping[str, Face],
) -> list[str]:
    """Say what keeps the parts from being one model with these inputs and outputs; empty when nothing does."""
    found = [*_of_parts(ensemble, max_batch_size, faces)]
    if found:
        return found
    found = [*_of_names(ensemble, faces), *_of_wiring(ensemble, inputs, outputs)]
    if found:
        return found
    try:
        ordered(ensemble)
    except ValueError as error:
        return [str(error)]
    return [*_of_types(ensemble, inputs, outputs, faces)]


def tensors_of(
    ensemble: Ensemble, inputs: Sequence[Tensor], outputs: Sequence[Tensor], faces: Mapping[str, Face]
) -> dict[str, Tensor]:
    """Return the type of each tensor that anything declares: its maker first, then those that take it."""
    found: dict[str, Tensor] = {}
    for _, name, tensor in _claims(ensemble, inputs, outputs, faces):
        found.setdefault(name, tensor)
    return found


def face_of(
    ensemble: Ensemble, part: str, types: Mapping[str, Tensor], declared: Face
) -> tuple[list[Tensor], list[Tensor]]:
    """Return a part's own inputs and outputs; what it does not declare is like what it is connected to."""
    step = next(step for step in ensemble.steps if step.part == part)

    def like(names: Mapping[str, str]) -> list[Tensor]:
        return [
            Tensor(name=name, dtype=types[tensor].dtype, shape=list(types[tensor].shape))
            for name, tensor in names.items()
        ]

    return (
        like(step.inputs) if declared.inputs is None else list(declared.inputs),
        like(step.outputs) if declared.outputs is None else list(declared.outputs),
    )


def _of_parts(ensemble: Ensemble, max_batch_size: int, faces: Mapping[str, Face]) -> Iterator[str]:
    used = {step.part for step in ensemble.steps}
    for step in ensemble.steps:
        if step.part not in ensemble.parts:
            yield f"a step names the part {step.part!r}; the parts are {sorted(ensemble.parts)}"
    for name in ensemble.parts:
        if name not in used:
            yield f"no step uses the part {name!r}; leave it out, or give it a step"
    for name, face in faces.items():
        most = face.max_batch_size
        if most is not None and bool(most) != bool(max_batch_size):
            yield (
                f"part {name!r} has max_batch_size {most} and the ensemble {max_batch_size}: with 0 the client's batch "
                "is an axis of the tensor, so that both need batching, or neither"
            )
        elif most is not None and most < max_batch_size:
            yield f"max_batch_size {max_batch_size} is above that of part {name!r}, {most}"


def _of_names(ensemble: Ensemble, faces: Mapping[str, Face]) -> Iterator[str]:
    for step in ensemble.steps:
        face = faces[step.part]
        for what, given, declared in (("input", step.inputs, face.inputs), ("output", step.outputs, face.outputs)):
            if declared is None:
                continue
            names = [tensor.name for tensor in declared]
            for name in sorted(set(given) - set(names)):
                yield f"part {step.part!r} has no {what} {name!r}; it has {names}"
            for name in names if what == "input" else ():
                if name not in given:
                    yield f"input {name!r} of part {step.part!r} is not connected: its step's inputs have to name it"


def _of_wiring(ensemble: Ensemble, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Iterator[str]:
    given = {tensor.name for tensor in inputs}
    yield from _made_twice(ensemble, given)
    made = {name: step.part for step in ensemble.steps for name in step.outputs.values()}
    taken = {name for step in ensemble.steps for name in step.inputs.values()}
    for step in ensemble.steps:
        for name, taking in step.inputs.items():
            if taking not in given and taking not in made:
                there = sorted({*given, *made})
                yield f"input {name!r} of part {step.part!r} takes {taking!r}, which nothing makes; there are {there}"
    for tensor in outputs:
        if tensor.name not in made:
            yield f"output {tensor.name!r} is made by no step; the steps make {sorted(made)}"
    for name in sorted(given - taken):
        yield f"input {name!r} goes into no step; leave it out, or connect it"
    wanted = taken | {tensor.name for tensor in outputs}
    for name, part in made.items():
        if name not in wanted and name not in given:
            yield f"{name!r}, which part {part!r} makes, goes nowhere; leave it out of its step's outputs"


def _made_twice(ensemble: Ensemble, given: set[str]) -> Iterator[str]:
    made: dict[str, str] = {}
    for step in ensemble.steps:
        for name in step.outputs.values():
            if name in given:
                yield f"part {step.part!r} makes {name!r}, which is an input of the ensemble; give it another name"
            elif name in made:
                yield f"{name!r} is made twice, by {made[name]!r} and {step.part!r}; give one another name"
            made.setdefault(name, step.part)


def _of_types(
    ensemble: Ensemble, inputs: Sequence[Tensor], outputs: Sequence[Tensor], faces: Mapping[str, Face]
) -> Iterator[str]:
    first: dict[str, tuple[str, Tensor]] = {}
    for who, name, tensor in _claims(ensemble, inputs, outputs, faces):
        if name not in first:
            first[name] = who, tensor
            continue
        maker, other = first[name]
        if not _agree(other, tensor):
            yield f"{name!r} is {_shown(other)} by {maker}, and {_shown(tensor)} by {who}"
    for step in ensemble.steps:
        for name in [*step.inputs.values(), *step.outputs.values()]:
            if name not in first:
                yield f"nothing says what {name!r} is: give part {step.part!r} its inputs and outputs"
                first[name] = "", Tensor(name="unknown", dtype="bool", shape=[])


def _claims(
    ensemble: Ensemble, inputs: Sequence[Tensor], outputs: Sequence[Tensor], faces: Mapping[str, Face]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield who says of which tensor of the ensemble what it is: makers first, then takers, then the outputs."""
    for tensor in inputs:
        yield "the ensemble's inputs", tensor.name, tensor
    for what in ("outputs", "inputs"):
        for step in ensemble.steps:
            declared = getattr(faces[step.part], what)
            own = {tensor.name: tensor for tensor in declared or ()}
            for name, tensor in getattr(step, what).items():
                if name in own:
                    yield f"{what.removesuffix('s')} {name!r} of part {step.part!r}", tensor, own[name]
    for tensor in outputs:
        yield "the ensemble's outputs", tensor.name, tensor


def _agree(one: Tensor, other: Tensor) -> bool:
    """Say whether a tensor of one type may be given where the other is taken; a dynamic axis may have any size."""
    sizes = zip(one.shape, other.shape, strict=False)
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(ours == theirs or isinstance(ours, str) or isinstance(theirs, str) for ours, theirs in sizes)
    )


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype}[{', '.join(str(size) for size in tensor.shape)}]"
