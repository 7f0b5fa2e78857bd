"""
Imports point one way: dags -> plugins -> steps -> the parts -> the core, and torch stays where models become ONNX.

    dags -> plugins/model_release_airflow -> cli, steps -> {export parity repository triton ...} -> {spec identity ...}
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "model_release"
CORE = {"errors", "spec", "spec_files", "identity", "environment", "asked"}
PARTS = {
    *("intake", "isolation", "landlock", "wire", "export", "parity", "build", "build_ensemble", "report"),
    *("repository", "ledger", "triton", "benchmark", "traffic", "gates", "messages"),
}
#: What each layer of the library may import besides itself.
ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    **dict.fromkeys(PARTS, CORE | PARTS),
    "steps": CORE | PARTS,
    "cli": CORE | PARTS | {"steps"},
}
#: Torch is heavy, and runs what a checkpoint's factory says: only these may import it.
MAY_IMPORT_TORCH = {f"{LIBRARY}.intake", f"{LIBRARY}.export", f"{LIBRARY}.parity", "example_models"}
OUTSIDE_WORLD = {"boto3", "botocore", "tritonclient", "grpc", "torch", "onnxruntime", "requests", "httpx", "aiohttp"}


@dataclass(frozen=True)
class Import:
    """One import: who, of what, and whether it happens as soon as the module is imported."""

    file: Path
    line: int
    importer: str
    module: str
    at_once: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def layer(self) -> str:
        """The importer's part of the library: model_release.steps.plan is of `steps`."""
        return part_of(self.importer)


def part_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(source: str, file: Path, importer: str) -> Iterator[Import]:
    tree = ast.parse(source)
    later = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    later |= {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = importer.split(".")[: -node.level]
                base = ".".join([*package, *filter(None, [base])])
            # `from model_release import errors` means model_release.errors
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(file, node.lineno, importer, name, node not in later)


def imports_under(folder: str) -> list[Import]:
    root = ROOT / folder
    found = []
    for file in sorted(root.rglob("*.py")):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        importer = module if not module.endswith("__init__") else f"{module.removesuffix('__init__')}__init__"
        found += list(imports_of(file.read_text(encoding="utf-8"), file, importer.removesuffix(".__init__")))
    return found


@pytest.fixture(scope="module")
def library() -> list[Import]:
    found = [each for each in imports_under("include") if each.importer.startswith(LIBRARY)]
    assert len(found) > 50
    return found


def wrong_arrows(found: list[Import]) -> list[str]:
    inside = [each for each in found if each.top == LIBRARY and each.layer and part_of(each.module)]
    return [
        f"{each}, but {each.layer} may import {sorted(ALLOWED.get(each.layer, set()))}"
        for each in inside
        if part_of(each.module) in ALLOWED
        and part_of(each.module) != each.layer
        and part_of(each.module) not in ALLOWED.get(each.layer, set())
    ]


def test_the_layers_of_the_library_import_downwards_alone(library: list[Import]) -> None:
    assert wrong_arrows(library) == []


def test_every_part_of_the_library_has_its_place_in_the_layers() -> None:
    parts = {path.stem for path in (ROOT / "include" / LIBRARY).glob("*") if path.suffix == ".py" or path.is_dir()}

    assert parts - {"__init__", "__pycache__", "py"} <= set(ALLOWED)


def test_the_library_knows_no_airflow() -> None:
    found = [*imports_under("include")]

    assert [str(each) for each in found if each.top in {"airflow", "model_release_airflow", "sandbox", "tests"}] == []


def test_torch_is_imported_only_where_models_become_onnx(library: list[Import]) -> None:
    everywhere = [*library, *(each for folder in ("dags", "plugins") for each in imports_under(folder))]

    assert [
        str(each)
        for each in everywhere
        if each.top in {"torch", "safetensors"} and not within(each.importer, MAY_IMPORT_TORCH)
    ] == []


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_steps_and_command_line_import_no_torch_until_they_need_it(library: list[Import]) -> None:
    """A module that imports torch as it is imported would make every command and every task wait for it."""
    heavy = {each.importer for each in library if each.top == "torch" and each.at_once}

    assert [
        str(each)
        for each in library
        if each.layer in {"steps", "cli"}
        and each.at_once
        and (each.module in heavy or each.module.rpartition(".")[0] in heavy)
    ] == []


def test_dags_tell_stories_and_touch_nothing_outside() -> None:
    found = imports_under("dags")

    assert [str(each) for each in found if each.top in OUTSIDE_WORLD] == []
    assert [str(each) for each in found if each.at_once and within(each.module, {f"{LIBRARY}.steps"})] == []


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("model_release.steps.plan", "from model_release.gates import judge", True),
        ("model_release.gates.judge", "from model_release.steps import plan", False),
        ("model_release.gates.judge", "from ..steps import plan", False),
        ("model_release.gates.judge", "def later():\n    import model_release.cli.main", False),
        ("model_release.spec", "from model_release import traffic", False),
        ("model_release.steps.plan", "from model_release.cli import output", False),
        ("model_release.gates.judge", "from .looks import Look", True),
    ],
)
def test_a_wrong_arrow_is_found(importer: str, source: str, allowed: bool) -> None:
    found = list(imports_of(source, ROOT / "example.py", importer))

    assert (wrong_arrows(found) == []) is allowed
