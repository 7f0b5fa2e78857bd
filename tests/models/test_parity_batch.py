"""Answers that depend on their batch, and answers that are drawn, are found, named, and told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_release.errors import BatchDependent, NotDeterministic
from model_release.parity import cases, independence, noise, onnxfile
from model_release.parity.report import PYTORCH
from tests.unit.parity_graphs import failures, graph, prove, spec

CENTRED = "k = Constant <value = int64[1] {0}> ()\n m = ReduceMean <keepdims = 1> (x, k)\n y = Sub (x, m)"
NUMBERED = """
    n = Shape <start = 0, end = 1> (x)
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    axis = Constant <value = int64[1] {0}> ()
    last = Constant <value = int64[1] {1}> ()
    count = Squeeze (n, axis)
    places = Range (zero, count, one)
    column = Unsqueeze (places, last)
    floats = Cast <to = 1> (column)
    y = Add (x, floats)
"""


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def numbered(x: Tensor) -> Tensor:
    return x + torch.arange(len(x))[:, None]


def test_answers_that_depend_on_neighbours_are_refused_and_the_model_is_blamed(tmp_path: Path) -> None:
    report = prove(spec(), centred, graph(tmp_path, CENTRED))
    assert failures(report) == ["BatchDependent"]
    with pytest.raises(BatchDependent, match=r"'y' of a sample alone and among 8 .*PyTorch model does so too"):
        report.raise_for_failure()
    assert report.summary()["batch_independent"] is False
    assert {row.provider for row in report.batch_independence} == {"cpu", PYTORCH}
    # The same neighbours in another order are the same batch.
    assert not any(row.differing for row in report.batch_independence if row.against == "place")


def test_answers_that_depend_on_the_place_are_told_from_those(tmp_path: Path) -> None:
    report = prove(spec(), numbered, graph(tmp_path, NUMBERED))
    assert failures(report) == ["BatchDependent"]
    assert "'y' of a sample at one place of 8 and at another differs by 5, allowed" in report.failures[0].message


def test_a_place_that_the_export_alone_brought_in_is_not_blamed_on_the_model(tmp_path: Path) -> None:
    report = prove(spec(parity={"batch_sizes": [1]}), lambda x: x, graph(tmp_path, NUMBERED))
    assert failures(report) == ["BatchDependent"]
    assert "The PyTorch model does not: the export brought it in." in report.failures[0].message
    assert not any(row.differing for row in report.batch_independence if row.provider == PYTORCH)


def test_without_batching_a_dependence_is_reported_and_fails_nothing(tmp_path: Path) -> None:
    made = spec(serving={"max_batch_size": 0}, parity={})
    report = prove(made, centred, graph(tmp_path, CENTRED))
    assert report.passed
    assert report.batching == 0
    assert any(row.differing for row in report.batch_independence)
    assert [size.batch_size for size in report.outputs[0].by_batch_size] == [1, 3]
    # Parity itself still holds the whole batch to PyTorch's.
    assert failures(prove(made, lambda x: x, graph(tmp_path, CENTRED))) == ["ParityFailed"]


def test_the_largest_batch_is_looked_at_though_parity_is_asked_for_at_one_alone(tmp_path: Path) -> None:
    path = graph(
        tmp_path,
        """n = Shape <start = 0, end = 1> (x)
        limit = Constant <value = int64 {31}> ()
        large = Greater (n, limit)
        more = Cast <to = 1> (large)
        y = Add (x, more)""",
    )
    report = prove(spec(parity={"batch_sizes": [1]}, serving={"max_batch_size": 32}), lambda x: x, path)
    assert failures(report) == ["BatchDependent"]
    assert "alone and among 32" in report.failures[0].message
    assert prove(spec(parity={"batch_sizes": [1]}, serving={"max_batch_size": 31}), lambda x: x, path).passed


def test_a_dependence_within_the_tolerance_is_none(tmp_path: Path) -> None:
    scaled = "s = Mul (m, c)\n y = Add (x, s)"
    tiny = "c = Constant <value = float {0.00001}> ()\n" + CENTRED.replace("y = Sub (x, m)", scaled)
    report = prove(spec(), lambda x: x, graph(tmp_path, tiny))
    assert report.passed
    assert max(row.max_abs for row in report.batch_independence) > 0


@pytest.mark.parametrize("size", [2, 3, 4, 8, 63, 64])
def test_turning_a_batch_moves_every_sample(size: int) -> None:
    seen: list[Any] = []

    def ask(inputs: dict[str, Any], what: str) -> dict[str, Any]:
        seen.append(inputs["x"][:, 0])
        return {"y": inputs["x"]}

    batch = {"x": np.arange(size, dtype=np.float32)[:, None].repeat(3, 1)}
    rows = list(independence._turned(spec(), ask, "cpu", batch, {"y": batch["x"]}))
    assert not any(row.differing for row in rows)
    assert sorted(seen[0]) == list(range(size))
    assert all(seen[0] != np.arange(size))


def test_samples_whose_shape_follows_their_batch_are_refused(tmp_path: Path) -> None:
    path = graph(tmp_path, "t = Transpose (x)\n y = MatMul (x, t)", "float[a,b] y")
    report = prove(spec(shape=["n"]), lambda x: x @ x.T, path)
    assert failures(report) == ["OnnxUnusable"]
    assert "'y' of one sample has the shape [1] alone and [4] among 4" in report.failures[0].message


# --- noise --------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = Draws(draw)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Draws(nn.Module):
    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(x)


@pytest.mark.parametrize(
    ("draw", "blamed"),
    [
        (lambda x: functional.dropout(x, 0.5, training=True), r"dropout|bernoulli"),
        (lambda x: x + torch.rand(3), "rand"),
        (lambda x: x + torch.randn_like(x), "randn|normal"),
        (lambda x: torch.multinomial(x.softmax(1), 3) * 1.0, "multinomial"),
    ],
)
def test_noise_is_found_before_parity_and_its_module_operator_and_line_are_named(
    tmp_path: Path, draw: Any, blamed: str
) -> None:
    torch.manual_seed(5)
    path, module = graph(tmp_path, "y = Identity (x)"), Noisy(draw)
    state = torch.random.get_rng_state()
    report = prove(spec(), module, path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(failures(report)) == {"NotDeterministic"}
    assert not report.deterministic
    assert (report.outputs, report.batch_independence, report.noise[0].provider) == ([], [], PYTORCH)
    with pytest.raises(
        NotDeterministic, match=rf"aten::\w*({blamed})\w* in module 'second' \(Draws\), test_parity_batch"
    ):
        report.raise_for_failure()


def test_noise_is_reported_the_same_each_time(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path, module = graph(tmp_path, "y = Identity (x)"), Noisy(lambda x: x + torch.rand(3))
    one = prove(spec(), module, path).model_dump()
    torch.rand(1)
    other = prove(spec(), module, path).model_dump()
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_noise_of_another_generator_is_traced_to_its_module(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    report = prove(spec(), Noisy(lambda x: x + float(random.random())), graph(tmp_path, "y = Identity (x)"))
    assert failures(report) == ["NotDeterministic"]
    assert "drawn by module 'second' (Draws)" in report.failures[0].message


def test_noise_of_the_graph_names_its_nodes(tmp_path: Path) -> None:
    path = graph(tmp_path, "r = RandomNormalLike (x)\n y = Add (x, r)")
    model = onnx.load(str(path))
    model.graph.node[0].name = "node_noise"
    onnx.save(model, str(path))
    report = prove(spec(), lambda x: x, path)
    assert failures(report) == ["NotDeterministic"]
    assert "'y' of the ONNX file on cpu" in report.failures[0].message
    assert "drawn by RandomNormalLike 'node_noise'" in report.failures[0].message


def test_a_dropout_that_the_graph_kept_on_is_named(tmp_path: Path) -> None:
    on = "r = Constant <value = float {0.5}> ()\n on = Constant <value = bool {1}> ()\n"
    report = prove(spec(), lambda x: x, graph(tmp_path, on + "y = Dropout (x, r, on)"))
    assert set(failures(report)) == {"NotDeterministic"}
    assert "drawn by Dropout" in report.failures[0].message
    off = "r = Constant <value = float {0.5}> ()\n y = Dropout (x, r)"
    assert onnxfile.describe(spec(), graph(tmp_path, off))[1] == []


def test_noise_of_the_model_is_not_blamed_on_its_export_as_well(tmp_path: Path) -> None:
    path = graph(tmp_path, "r = RandomNormalLike (x)\n y = Add (x, r)")
    report = prove(spec(), lambda x: x + torch.randn_like(x), path)
    assert failures(report) == ["NotDeterministic"]
    assert "'y' of the PyTorch model" in report.failures[0].message
    assert {entry.provider for entry in report.noise} == {"cpu", PYTORCH}


def test_attention_without_dropout_is_not_taken_for_noise(tmp_path: Path) -> None:
    def forward(x: Tensor) -> Tensor:
        heads = x[:, None, None]
        return functional.scaled_dot_product_attention(heads, heads, heads)[:, 0, 0] + torch.rand(3)

    report = prove(spec(), forward, graph(tmp_path, "y = Identity (x)"))
    assert "rand in the model itself (Calls)" in report.failures[0].message
    assert "attention" not in report.failures[0].message


def test_a_shape_that_changes_between_two_runs_is_noise_too() -> None:
    lengths = iter((3, 2))

    def ask(inputs: dict[str, Any], what: str) -> dict[str, Any]:
        return {"y": np.zeros((8, next(lengths)), np.float32)}

    case = cases.probes(spec(), None)
    [found] = noise.find_noise(spec(shape=["n"]), ask, "cpu", case, lambda: "")
    assert found.beyond_tolerance


def test_noise_within_the_tolerance_is_reported_and_compared(tmp_path: Path) -> None:
    path = graph(tmp_path, "r = RandomNormalLike <scale = 0.000001> (x)\n y = Add (x, r)")
    report = prove(spec(), lambda x: x, path)
    assert report.passed
    assert not report.deterministic
    assert [(entry.beyond_tolerance, entry.provider) for entry in report.noise] == [(False, "cpu")]
    assert report.outputs


def test_a_dropout_that_is_off_is_no_noise(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    assert prove(spec(), module, graph(tmp_path, "y = Dropout (x)")).passed
