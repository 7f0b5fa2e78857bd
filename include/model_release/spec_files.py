"""Model configs as files: read, checked whole, and every problem said in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from model_release.errors import BadModelConfig, UnknownModel, did_you_mean
from model_release.spec import GateSection, ModelSpec
from model_release.spec.ensemble import Part
from model_release.spec.model import MOST_NAME_CHARACTERS

S = TypeVar("S", bound=BaseModel)
#: libyaml reads ten times as fast as PyYAML itself, and the DAG processor reads every config again and again.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: What a folder of an ensemble's part in Python is made of: code, and data that nothing runs.
PART_MODEL_FILE = "model.py"
PART_SUFFIXES = (".py", ".json", ".txt", ".csv", ".yaml", ".npy", ".npz")
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
        content = yaml.load(text, Loader=_SafeLoader)  # noqa: S506  # it is a safe one
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
    spec = with_parts(parse_section(ModelSpec, text, str(path)), path)
    if spec.name != path.stem:
        raise BadModelConfig(str(path), [f"name is {spec.name!r}, but the file is {path.name}"])
    if problem := _problem_of_served_name(spec, path):
        raise BadModelConfig(str(path), [problem])
    return spec


def with_parts(spec: ModelSpec, path: Path) -> ModelSpec:
    """
    Return an ensemble's spec with the configs that its parts name, read from beside it; any other spec as it is.

    Raises BadModelConfig, naming `path`, also where a part's Python is not in a folder of the repository.
    """
    ensemble = spec.serving.ensemble
    if ensemble is None:
        return spec
    parts, problems = {}, []
    for name, part in ensemble.parts.items():
        try:
            parts[name] = _with_spec(part, path)
        except (BadModelConfig, UnknownModel) as problem:
            problems.append(f"part {name!r}: {problem}")
    problems += [f"part {part!r}: {problem}" for part, problem in problems_of_folders(spec)]
    if problems:
        raise BadModelConfig(str(path), problems)
    values = spec.model_dump(mode="json")
    values["serving"]["ensemble"]["parts"] = {name: part.model_dump(mode="json") for name, part in parts.items()}
    try:
        return ModelSpec.model_validate(values)
    except ValidationError as error:
        raise BadModelConfig(str(path), [_sentence(problem, {}) for problem in error.errors()]) from None


def _with_spec(part: Part, path: Path) -> Part:
    if part.spec is not None:
        raise BadModelConfig(str(path), ["spec is filled in from the config that the part names; remove it"])
    if part.config is None:
        return part
    if part.config == path.stem:
        raise BadModelConfig(str(path), [f"{part.config!r} is the ensemble itself"])
    other = find_spec(path.parent, part.config)
    return part.model_copy(update={"spec": other.model_dump(mode="json")})


def problems_of_folders(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the folders of an ensemble's parts in Python, by part."""
    for name, part in (spec.serving.ensemble.parts if spec.serving.ensemble else {}).items():
        if part.python is not None:
            try:
                files_of_part(part.python)
            except ValueError as error:
                yield name, str(error)


def files_of_part(folder: str) -> dict[str, Path]:
    """
    Return the files of a part in Python by their names in its version directory; `folder` is `include/...`.

    Code comes from the repository alone: from the folder that this library lies in, or another one named `include` on
    the path of imports. Raises ValueError for a folder that is not there, leads outside, or holds anything else.
    """
    inside = folder.removeprefix("include/")
    roots = [Path(__file__).parents[1], *(Path(entry) for entry in sys.path if Path(entry).name == "include")]
    for root in roots:
        found = root / inside
        if found.is_dir():
            return _checked_files(folder, found, root.resolve())
    message = f"{folder} is no folder of the repository; there must be {folder}/{PART_MODEL_FILE}"
    raise ValueError(message)


def _checked_files(folder: str, found: Path, root: Path) -> dict[str, Path]:
    files = {}
    for path in sorted(found.rglob("*")):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        name = path.relative_to(found).as_posix()
        if not path.resolve().is_relative_to(root):
            message = f"{folder}/{name} leads outside of the repository's folders"
            raise ValueError(message)
        if path.suffix not in PART_SUFFIXES:
            message = f"{folder}/{name} is of no kind that a part may bring; those are {', '.join(PART_SUFFIXES)}"
            raise ValueError(message)
        files[name] = path
    if PART_MODEL_FILE not in files:
        message = f"{folder} has no {PART_MODEL_FILE}, which Triton's Python backend runs"
        raise ValueError(message)
    return files


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
