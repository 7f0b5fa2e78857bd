"""Intake takes tensors and nothing else, and says plainly what is wrong with a file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model_release.errors import CheckpointMissing, CheckpointUnreadable, FactoryFailed, TensorsDoNotMatch
from model_release.intake import fetch_checkpoint, open_checkpoint
from tests.unit import toys

STATE = toys.linear().state_dict()


def load(path: Path, folder: Path, **source: Any) -> torch.nn.Module:
    spec = toys.spec()
    spec = spec.model_copy(update={"source": spec.source.model_copy(update=source)})
    target = folder / "fetched"
    target.mkdir(exist_ok=True)
    return open_checkpoint(spec, fetch_checkpoint(spec, toys.uri(path), toys.ENVIRONMENT, target))


def same(module: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, STATE[name]) for name, tensor in module.state_dict().items())


def test_safetensors_fill_the_module_in_eval_mode(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    save_file(other, tmp_path / "a.safetensors")
    module = load(tmp_path / "a.safetensors", tmp_path)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(tensor, other[name]) for name, tensor in module.state_dict().items())


def test_what_was_fetched_is_named_by_its_bytes(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "to").mkdir()
    fetched = fetch_checkpoint(toys.spec(), toys.uri(tmp_path / "a.safetensors"), toys.ENVIRONMENT, tmp_path / "to")
    assert fetched.sha256 == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert fetched.size_bytes == (tmp_path / "a.safetensors").stat().st_size


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save_files_of_both_formats_are_read(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert same(load(tmp_path / "a.pt", tmp_path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_unreadable(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"a{suffix}"
    save_file(STATE, file) if suffix == ".safetensors" else torch.save(STATE, file)
    body = file.read_bytes()
    file.write_bytes(body[: int(len(body) * kept)])
    with pytest.raises(CheckpointUnreadable, match="is empty" if kept == 0 else "damaged|no whole"):
        load(file, tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_text_under_a_checkpoints_name_is_unreadable(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("<html>404 not found</html>" * 20)
    with pytest.raises(CheckpointUnreadable, match=r"damaged|no whole"):
        load(tmp_path / f"a{suffix}", tmp_path)


def test_torch_save_under_the_name_safetensors_is_said(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointUnreadable, match=r"is a file of torch\.save"):
        load(tmp_path / "a.safetensors", tmp_path)


def test_another_suffix_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnreadable, match=r"'\.ckpt' is no known kind"):
        load(tmp_path / "absent.ckpt", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "state_dict": STATE}, r"more than tensors \(epoch, state_dict\)"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
    ],
)
def test_something_else_than_a_state_dict_is_named(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointUnreadable, match=says):
        load(tmp_path / "a.pt", tmp_path)


def test_an_absent_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        load(tmp_path / "a.safetensors", tmp_path)


def test_tensors_for_another_architecture_are_listed_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 5), "scale": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(TensorsDoNotMatch) as caught:
        load(tmp_path / "a.safetensors", tmp_path)
    message = str(caught.value)
    assert "1 missing (bias)" in message
    assert "1 unexpected (scale)" in message
    assert "weight float32[2, 5] for float32[2, 3]" in message


def test_whole_numbers_for_floats_do_not_match(tmp_path: Path) -> None:
    save_file({name: tensor.to(torch.int64) for name, tensor in STATE.items()}, tmp_path / "a.safetensors")
    with pytest.raises(TensorsDoNotMatch, match="weight int64"):
        load(tmp_path / "a.safetensors", tmp_path)


def test_half_precision_weights_fill_a_float_module(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in STATE.items()}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors", tmp_path).weight.dtype == torch.float32


def test_numbers_that_the_modules_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    save_file(
        {"weight": torch.full((2, 3), 1e30, dtype=torch.float64), "bias": torch.zeros(2)}, tmp_path / "a.safetensors"
    )
    assert load(tmp_path / "a.safetensors", tmp_path).weight.isfinite().all()
    save_file(
        {"weight": torch.full((2, 3), 1e300, dtype=torch.float64), "bias": torch.zeros(2)}, tmp_path / "b.safetensors"
    )
    with pytest.raises(CheckpointUnreadable, match=r"weight holds numbers that overflow in the module's float32"):
        load(tmp_path / "b.safetensors", tmp_path)


def test_infinities_that_were_saved_are_kept(tmp_path: Path) -> None:
    bias = torch.tensor([-torch.inf, 0.0], dtype=torch.float64)
    save_file({**STATE, "bias": bias}, tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors", tmp_path).bias, bias.float())


@pytest.mark.parametrize(("kind", "other"), [("meta", None), ("sparse_coo", torch.Tensor.to_sparse)])
def test_tensors_without_plain_values_are_named(tmp_path: Path, kind: str, other: Any) -> None:
    torch.save({name: other(t) if other else t.to("meta") for name, t in STATE.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointUnreadable, match=f"its tensor weight is {kind}, and not a plain tensor"):
        load(tmp_path / "a.pt", tmp_path)


def test_whole_numbers_are_widened_and_never_narrowed(tmp_path: Path) -> None:
    for held, dtype in (("int32", torch.int32), ("int64", torch.int64)):
        save_file({"count": torch.ones(2, dtype=dtype)}, tmp_path / f"{held}.safetensors")
    kwargs = {"factory": "tests.unit.intake.files:counter"}
    assert (
        load(tmp_path / "int32.safetensors", tmp_path, **kwargs, factory_kwargs={"bits": 64}).count.dtype == torch.int64
    )
    with pytest.raises(TensorsDoNotMatch, match=r"count int64\[2\] for int32\[2\]"):
        load(tmp_path / "int64.safetensors", tmp_path, **kwargs, factory_kwargs={"bits": 32})


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    save_file({"first.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors")
    module = load(tmp_path / "a.safetensors", tmp_path, factory="tests.unit.toys:Tied")
    assert torch.equal(module.second.weight, torch.ones(3, 3))


def test_weights_that_diverged_are_refused(tmp_path: Path) -> None:
    save_file({**STATE, "bias": torch.tensor([0.0, torch.nan])}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointUnreadable, match="bias holds NaN"):
        load(tmp_path / "a.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("absent_package.digits:build", "No module named 'absent_package'"),
        ("tests.unit.toys:absent", "no function 'absent'"),
        ("tests.unit.toys:no_module", "returned a str"),
    ],
)
def test_a_factory_that_builds_nothing_is_named(tmp_path: Path, factory: str, says: str) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    with pytest.raises(FactoryFailed, match=says):
        load(tmp_path / "a.safetensors", tmp_path, factory=factory)


def test_factory_kwargs_reach_the_factory(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors", tmp_path, factory_kwargs={"width": 5}).in_features == 5
    with pytest.raises(FactoryFailed, match="unexpected keyword argument 'depth'"):
        load(tmp_path / "a.safetensors", tmp_path, factory_kwargs={"depth": 5})


def test_importing_the_library_does_not_import_torch() -> None:
    code = (
        "import sys, model_release.intake, model_release.export, model_release.parity;"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
