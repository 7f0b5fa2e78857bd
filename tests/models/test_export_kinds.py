"""Models of every kind become an ONNX file that answers as they do: types, shapes, outputs, programs, float16."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from model_release import build, parity
from model_release.errors import ExportFailed
from model_release.export import export_onnx
from model_release.intake import fetch_checkpoint
from model_release.parity.report import ParityReport, Source
from model_release.spec import ModelSpec
from tests.unit import toys

SOURCE = Source(uri="file:///toy", sha256="0" * 64)


def proved(spec: ModelSpec, module: nn.Module, folder: Path) -> ParityReport:
    [path] = export_onnx(spec, module.eval(), folder / "model.onnx", version=1, source_sha256="0" * 64)
    report = parity.prove(spec, module, path, source=SOURCE)
    assert report.passed, report.failures
    return report


def tensor(name: str, dtype: str, shape: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, **more}


# --- inputs ------------------------------------------------------------------------------------


class Typed(nn.Module):
    """Every kind of input, and a number a sample as output."""

    def forward(self, ints: Tensor, flags: Tensor, halves: Tensor, doubles: Tensor, bytes_: Tensor) -> Any:
        score = torch.where(flags, ints.float(), halves.float()).sum(1) + bytes_.float().sum(1)
        return {"score": score, "doubled": doubles * 2, "any": flags.any(1), "halved": halves / 2, "count": ints + 1}


def test_all_types_of_inputs_and_outputs_and_one_value_a_sample(tmp_path: Path) -> None:
    spec = toys.spec(
        inputs=[
            tensor("ints", "int64", [4]),
            tensor("flags", "bool", [4]),
            tensor("halves", "float16", [4]),
            tensor("doubles", "float64", [2]),
            tensor("bytes_", "uint8", [3]),
        ],
        outputs=[
            tensor("score", "float32", []),
            tensor("doubled", "float64", [2]),
            tensor("any", "bool", []),
            tensor("halved", "float16", [4]),
            tensor("count", "int64", [4]),
        ],
    )
    proved(spec, Typed(), tmp_path)
    outputs = onnx.load(str(tmp_path / "model.onnx")).graph.output
    assert [dim.dim_param for dim in outputs[0].type.tensor_type.shape.dim] == ["batch"]


class Optional(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        return x * scale if mask is None else x * mask


def test_optional_inputs_are_left_out(tmp_path: Path) -> None:
    proved(toys.spec(outputs=[tensor("y", "float32", [3])]), Optional(), tmp_path)


class Swapped(nn.Module):
    def forward(self, first: Tensor, *, second: Tensor) -> Tensor:
        return first - 2 * second


def test_inputs_go_by_name_whatever_their_order(tmp_path: Path) -> None:
    spec = toys.spec(
        inputs=[tensor("second", "float32", [3]), tensor("first", "float32", [3])],
        outputs=[tensor("y", "float32", [3])],
    )
    proved(spec, Swapped(), tmp_path)


@pytest.mark.parametrize("most", [0, 1])
def test_the_batch_is_dynamic_without_dynamic_batching_too(tmp_path: Path, most: int) -> None:
    spec = toys.spec(serving={"max_batch_size": most}, parity={"batch_sizes": [1] if most else [1, 5]})
    proved(spec, toys.linear(), tmp_path)


# --- outputs -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    unused: Any
    low: Tensor
    high: Tensor


class Named(NamedTuple):
    high: Tensor
    low: Tensor


class Returns(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        low, high = x - 1, x + 1
        forms = {
            "dataclass": lambda: Answer(None, low, high),
            "named tuple": lambda: Named(high, low),
            "mapping": lambda: {"high": high, "low": low},
            "tuple": lambda: (low, high),
            "list": lambda: [low, high],
        }
        return forms[self.form]()


@pytest.mark.parametrize("form", ["dataclass", "named tuple", "mapping", "tuple", "list"])
def test_outputs_are_found_in_what_forward_returns(tmp_path: Path, form: str) -> None:
    spec = toys.spec(outputs=[tensor("low", "float32", [3]), tensor("high", "float32", [3])])
    proved(spec, Returns(form), tmp_path)


class Embeds(nn.Module):
    """Its graph has an inner value of the name `embedding`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(1)


@pytest.mark.parametrize("name", ["embedding", "mean", "ids_1"])
def test_an_output_may_have_a_name_that_the_exporter_takes_itself(tmp_path: Path, name: str) -> None:
    spec = toys.spec(inputs=[tensor("ids", "int64", [5], range=[0, 9])], outputs=[tensor(name, "float32", [4])])
    proved(spec, Embeds(), tmp_path)


class Echo(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_an_output_that_is_an_input_has_its_own_name(tmp_path: Path) -> None:
    spec = toys.spec(outputs=[tensor("same", "float32", [3]), tensor("again", "float32", [3])])
    proved(spec, Echo(), tmp_path)


# --- modes -------------------------------------------------------------------------------------


class Switches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        return self.drop(x)[:, :2]


def test_a_module_that_switches_itself_to_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="switches drop to training mode"):
        export_onnx(toys.spec(), Switches(), tmp_path / "model.onnx", version=1, source_sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_module_left_in_training_mode_is_exported_in_eval_mode(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    [path] = export_onnx(toys.spec(), module, tmp_path / "model.onnx", version=1, source_sha256="0" * 64)
    assert parity.prove(toys.spec(), module.eval(), path, source=SOURCE).passed


# --- float16 -----------------------------------------------------------------------------------


def halved(**export: Any) -> ModelSpec:
    return toys.spec(export={"precision": "fp16", **export}, inputs=[tensor("x", "float32", [64])])


class Wide(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 2)
        with torch.no_grad():
            self.first.weight[0, 0] *= factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.last(torch.relu(self.first(x))), dim=1)


def types_of(path: Path) -> dict[str, str]:
    model = onnx.load(str(path))
    return {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}


def test_float16_halves_the_weights_and_keeps_the_types_of_the_spec(tmp_path: Path) -> None:
    report = proved(halved(), Wide(), tmp_path)
    assert set(types_of(tmp_path / "model.onnx").values()) == {"FLOAT16"}
    assert report.onnx.precision == "fp16"
    assert report.outputs[0].max_abs > 1e-6, "it was computed in float32"


def test_operators_that_are_kept_stay_float32(tmp_path: Path) -> None:
    proved(halved(keep_fp32=["Gemm"]), Wide(), tmp_path)
    assert set(types_of(tmp_path / "model.onnx").values()) == {"FLOAT"}


def test_an_operator_that_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"keep_fp32 names 'Softmx'.*Did you mean 'Softmax'"):
        export_onnx(halved(keep_fp32=["Softmx"]), Wide(), tmp_path / "model.onnx", version=1, source_sha256="0" * 64)


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"the weight \S*first\.weight reaches .*float16 ends at 65504"):
        export_onnx(halved(), Wide(1e8), tmp_path / "model.onnx", version=1, source_sha256="0" * 64)


# --- programs ----------------------------------------------------------------------------------


def released(path: Path, form: str, folder: Path, **changes: Any) -> ParityReport:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = {"checkpoint": "file:///x", "format": form, "allow_code": True, "sha256": digest}
    spec = toys.spec(source=source, **changes)
    fetched = fetch_checkpoint(spec, toys.uri(path), toys.ENVIRONMENT, folder)
    files = build.export(spec, fetched, folder / "model.onnx", version=1)
    return build.validate(spec, fetched, files[0], folder)


def test_an_exported_program_is_exported_and_proved_in_a_child(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(toys.linear(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert released(tmp_path / "model.pt2", "exported_program", tmp_path).passed


def test_an_exported_program_with_a_fixed_batch_says_so(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(toys.linear(), (torch.zeros(2, 3),)), tmp_path / "model.pt2")
    with pytest.raises(ExportFailed, match=r"batch"):
        released(tmp_path / "model.pt2", "exported_program", tmp_path)


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x * 1.5
        return x[:, :2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_exported_by_its_own_path(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Loops()), tmp_path / "model.pt")
    assert released(tmp_path / "model.pt", "torchscript", tmp_path).passed
    facts = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "model.onnx")).metadata_props}
    assert facts["exporter"] == "torchscript"


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x.unsqueeze(2) * x.unsqueeze(1))[:, :2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("module", "changes", "says"),
    [
        (Spectrum(), {}, r"TorchScript exporter refuses it.*aten::\w*eig\w*.*state_dict with a factory"),
        (Loops(), {"export": {"opset": 22}}, "written up to opset 20, the spec says 22"),
    ],
)
def test_torchscript_that_does_not_export_is_refused_with_what_to_do(
    tmp_path: Path, module: nn.Module, changes: dict[str, Any], says: str
) -> None:
    torch.jit.save(torch.jit.script(module), tmp_path / "model.pt")
    with pytest.raises(ExportFailed, match=says):
        released(tmp_path / "model.pt", "torchscript", tmp_path, **changes)


# --- bytes -------------------------------------------------------------------------------------

EXPORT = """
import sys
from pathlib import Path
from tests.unit import toys
from model_release.export import export_onnx
export_onnx(toys.tokens_spec(), toys.Tokens(), Path(sys.argv[1]), version=1, source_sha256="0" * 64)
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}  # noqa: PTH109
        subprocess.run(
            [sys.executable, "-c", EXPORT, str(folder / "model.onnx")], env=environment, cwd=folder, check=True
        )
        digests.add(hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_exported_graph_opens_with_any_reader_of_protobuf(tmp_path: Path) -> None:
    """The file is written by hand, field by field: onnx's own reader must see what the answers came from."""
    [path] = export_onnx(toys.spec(), toys.linear(), tmp_path / "model.onnx", version=1, source_sha256="0" * 64)
    model = onnx.load(str(path))
    again = onnx.ModelProto.FromString(model.SerializeToString())
    assert again == model
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert any(np.array_equal(array, toys.linear().weight.detach().numpy()) for array in weights.values())
