"""Model configs as files: read, checked whole, and every problem said in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from model_release.errors import BadModelConfig, UnknownModel, did_you_mean
from model_release.spec import GateSection, ModelSpec
from model_release.spec.model import MOST_NAME_CHARACTERS

S = TypeVar("S", bound=BaseModel)
#: Names of keys whose values are nobody's to read in an error.
_SECRET = re.compile("key|password|secret|pkcs11")


def _sentence(problem: Any, known_keys: dict[tuple[str, ...], list[str]]) -> str:
    """Turn one pydantic problem into words, with a close match for an unknown key."""
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path) or "the file"
    if problem["type"] == "extra_forbidden":
        siblings = known_keys.get(tuple(part for part in path[:-1] if not part.isdigit()), [])
        allowed = f" Allowed here: {', '.join(siblings)}." if siblings else ""
        return f"unknown key {where!r}.{did_you_mean(path[-1], siblings)}{allowed}"
    # A section is not shown: it may hold secrets, and its problem names its keys.
    hidden = problem["type"] == "missing" or isinstance(problem["input"], dict) or _SECRET.search(where)
    got = "" if hidden else f" (got {problem['input']!r:.80})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{got}"


def _known_keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[str]]:
    """Return the field names of each section by its path (list items and gate kinds included)."""
    found = {path: sorted(model.model_fields)}
    for name, field in model.model_fields.items():
        for inner, tag in _sections_in(field.annotation):
            found |= _known_keys(inner, (*path, name, *tag))
    return found


def _sections_in(annotation: Any) -> list[tuple[type[BaseModel], tuple[str, ...]]]:
    """Return the sections that an annotation mentions, with the tag pydantic puts into the path of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        tagged = kind is not None and issubclass(annotation, GateSection)
        return [(annotation, get_args(kind.annotation) if kind and tagged else ())]
    return [hit for inner in getattr(annotation, "__args__", ()) for hit in _sections_in(inner)]


def parse_section(section: type[S], text: str, where: str) -> S:
    """
    Parse YAML text into a section (a ModelSpec, an Environment).

    Raises BadModelConfig, naming `where` and every problem.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadModelConfig(where, [" ".join(str(error).split())]) from None
    if not isinstance(content, dict):
        raise BadModelConfig(where, ["it must be a mapping of keys to values"])
    try:
        return section.model_validate(content)
    except ValidationError as error:
        known = _known_keys(section)
        raise BadModelConfig(where, [_sentence(problem, known) for problem in error.errors()]) from None


def load_spec(path: Path) -> ModelSpec:
    """
    Read one model config.

    Raises BadModelConfig when it does not hold or its `name` is not the file's stem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModelConfig(str(path), [str(error)]) from None
    spec = parse_section(ModelSpec, text, str(path))
    if spec.name != path.stem:
        raise BadModelConfig(str(path), [f"name is {spec.name!r}, but the file is {path.name}"])
    if problem := _problem_of_served_name(spec, path):
        raise BadModelConfig(str(path), [problem])
    return spec


def _problem_of_served_name(spec: ModelSpec, path: Path) -> str | None:
    served, other = f"contract {spec.contract} is served as {spec.served_name!r}", path.with_stem(spec.served_name)
    if len(spec.served_name) > MOST_NAME_CHARACTERS:
        return f"{served}, which has more than {MOST_NAME_CHARACTERS} characters"
    return f"{served}, which is the name of {other.name}" if other != path and other.exists() else None


def load_specs(folder: Path) -> tuple[dict[str, ModelSpec], list[BadModelConfig]]:
    """Read every config of a folder: the good ones by name, in order, and the problems of the others."""
    specs: dict[str, ModelSpec] = {}
    problems: list[BadModelConfig] = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            spec = load_spec(path)
        except BadModelConfig as problem:
            problems.append(problem)
        else:
            specs[spec.name] = spec
    return specs, problems


def find_served(folder: Path, model: str) -> ModelSpec:
    """Read the config that is served by this name now. Raises UnknownModel."""
    served = {spec.served_name: spec for spec in load_specs(folder)[0].values()}
    if model not in served:
        raise UnknownModel(model, sorted(served), str(folder))
    return served[model]


def find_spec(folder: Path, name: str) -> ModelSpec:
    """
    Read the config of one model.

    Raises UnknownModel, with a close match, when the folder has no such file.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UnknownModel(name, sorted(file.stem for file in folder.glob("*.yaml")), str(folder))
    return load_spec(path)
