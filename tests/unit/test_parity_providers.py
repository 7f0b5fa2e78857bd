"""A proof runs on the execution providers that were asked for, and never silently on another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from model_release.errors import OnnxUnusable, ProviderMissing
from model_release.parity import candidate, providers
from tests.unit.parity_graphs import failures, graph, prove, spec

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class Machine:
    """A machine of which ONNX Runtime says what a test wants; everything is really run on CPU."""

    def __init__(self) -> None:
        self.offered = [TENSORRT, CUDA, CPU]
        self.starts = {CUDA, CPU, TENSORRT}
        self.takes_nodes = True
        self.fails = ""
        self.wrong = False
        self.opened: list[tuple[list[str], bool]] = []
        self.SessionOptions = onnxruntime.SessionOptions
        self.__version__ = "9"

    def get_available_providers(self) -> list[str]:
        return self.offered

    def set_default_logger_severity(self, level: int) -> None:
        pass

    def InferenceSession(self, path: str, options: Any, providers: list[str], enable_fallback: int) -> Any:  # noqa: N802
        self.opened.append((providers, bool(enable_fallback)))
        if self.fails and providers[0] != CPU:
            raise RuntimeError(self.fails)
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        asked = [name for name in providers if name in self.starts]

        def run(names: list[str], inputs: dict[str, Any]) -> list[Any]:
            answers = session.run(names, inputs)
            return [answer + 1 for answer in answers] if self.wrong and providers[0] != CPU else answers

        return SimpleNamespace(
            run=run,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            get_providers=lambda: asked,
            disable_fallback=lambda: None,
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(ep_name=asked[0] if self.takes_nodes else CPU, get_nodes=list)
            ],
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(candidate, "import_onnxruntime", lambda: machine)
    monkeypatch.setattr(providers, "cuda_devices", lambda: 1)
    return machine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return graph(tmp_path, "y = Add (x, x)")


def asked(*names: str, kind: str = "auto") -> Any:
    serving = {"max_batch_size": 8, "instance_group": {"kind": kind}}
    return spec(parity={"batch_sizes": [1, 4], "providers": list(names)}, serving=serving)


def doubled(x: Any) -> Any:
    return x * 2


def test_cpu_alone_is_the_default_where_there_is_no_gpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_devices", lambda: 0)
    report = prove(asked(), doubled, path)
    assert (report.providers, report.notes) == (["cpu"], [])
    report = prove(asked(kind="gpu"), doubled, path)
    assert report.providers == ["cpu"]
    assert report.notes == ["cuda was not compared: the model is served on a GPU, and this machine has none"]


def test_cuda_joins_by_itself_where_there_is_a_gpu(path: Path, machine: Machine) -> None:
    report = prove(asked(), doubled, path)
    assert report.passed
    assert report.providers == ["cpu", "cuda"]
    assert [found.provider for found in report.outputs] == ["cpu", "cuda"]
    assert {row.provider for row in report.batch_independence} == {"cpu", "cuda"}
    assert prove(asked(kind="cpu"), doubled, path).providers == ["cpu"]


def test_a_gpu_that_cannot_be_used_is_noted_when_nobody_asked_for_it(path: Path, machine: Machine) -> None:
    machine.starts = {CPU}
    report = prove(asked(), doubled, path)
    assert report.passed
    assert report.providers == ["cpu"]
    assert "cuda was not compared, though this machine has a GPU" in report.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offered": [CPU]}, "this build has no CUDAExecutionProvider"),
        ({"starts": {CPU}}, "does not start"),
        ({"takes_nodes": False}, "takes no operator of this model"),
        ({"fails": "libcudnn.so.9 not found"}, "libcudnn"),
    ],
)
def test_a_provider_that_was_asked_for_is_never_another(
    path: Path, machine: Machine, change: dict[str, Any], says: str
) -> None:
    vars(machine).update(change)
    with pytest.raises(ProviderMissing, match=says):
        prove(asked("cuda"), doubled, path)
    assert all(not fallback for _, fallback in machine.opened)


def test_providers_that_were_asked_for_are_exactly_those(path: Path, machine: Machine) -> None:
    assert prove(asked("tensorrt", "tensorrt"), doubled, path).providers == ["tensorrt"]
    assert machine.opened == [([TENSORRT, CUDA, CPU], False)]


def test_a_provider_that_answers_otherwise_fails_alone_and_by_name(path: Path, machine: Machine) -> None:
    machine.wrong = True
    worst = path.parent / "worst.npz"
    report = prove(asked("cpu", "cuda"), lambda x: x * 2.00001, path, worst_path=worst)
    assert failures(report) == ["ParityFailed"]
    assert "beyond the tolerance on cuda" in report.failures[0].message
    assert [found.differing > 0 for found in report.outputs] == [False, True]
    # The file holds the worst sample of all providers.
    saved = np.load(worst)
    assert (saved["y.answer"] - saved["y.reference"]).max() == pytest.approx(1, abs=0.01)


def test_a_bad_file_is_not_blamed_on_the_provider(tmp_path: Path, machine: Machine) -> None:
    machine.fails = "no such operator"
    with pytest.raises(OnnxUnusable, match="does not open it"):
        prove(asked("cuda"), doubled, graph(tmp_path, "y = Nonsense (x)"))


def test_this_machines_own_runtime_refuses_what_it_cannot_run(path: Path) -> None:
    if providers.cuda_devices():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ProviderMissing, match="parity of toy is asked for on cuda"):
        prove(asked("cuda"), doubled, path)
