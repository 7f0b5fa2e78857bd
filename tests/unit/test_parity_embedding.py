"""Vectors that left the space of stable's are found, and stop the release where the spec says that they must not."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_release.errors import EmbeddingMoved
from model_release.parity import StableVersion, providers
from model_release.parity.candidate import Candidate
from model_release.parity.embedding import compare_spaces, neighbour_agreement
from model_release.spec import Embedding
from tests.unit.parity_graphs import failures, graph, prove, spec

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(300, 16))
ROTATION = np.linalg.qr(RANDOM.normal(size=(16, 16)))[0]


def found(this: Any, other: Any, **asked: Any) -> Any:
    return compare_spaces(Embedding(**asked), "y", this, other, against="stable's version 7")


def brute_agreement(a: Any, b: Any, count: int) -> float:
    def nearest(vectors: Any, place: int) -> set[int]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit[place]))
        return set([other for other in order if other != place][:count])

    return float(np.mean([len(nearest(a, place) & nearest(b, place)) / count for place in range(len(a))]))


def test_the_same_vectors_are_the_same_space() -> None:
    same = found(VECTORS, VECTORS * 3)
    assert same.same_space
    assert same.cosine_min == pytest.approx(1)
    assert (same.neighbour_agreement, same.samples, same.dimension) == (1, 300, 16)


def test_agreement_is_the_share_of_common_neighbours_without_the_sample_itself() -> None:
    for scale in (0.05, 0.3, 3.0):
        moved = VECTORS + RANDOM.normal(size=VECTORS.shape) * scale
        assert neighbour_agreement(VECTORS, moved, 10) == pytest.approx(brute_agreement(VECTORS, moved, 10), abs=1e-3)
    unrelated = neighbour_agreement(VECTORS, RANDOM.normal(size=VECTORS.shape), 10)
    assert unrelated < 0.1


def test_a_rotated_space_keeps_its_neighbours_and_is_another() -> None:
    moved = found(VECTORS @ ROTATION, VECTORS)
    assert moved.neighbour_agreement == pytest.approx(1)
    assert moved.cosine_mean < 0.5
    assert not moved.same_space


def test_small_moves_are_the_same_space_until_neighbours_change() -> None:
    near = found(VECTORS + RANDOM.normal(size=VECTORS.shape) * 0.01, VECTORS)
    assert near.same_space
    # Vectors that all point nearly the same way stay close while their order is lost.
    crowd = 100 + RANDOM.normal(size=(300, 16))
    mixed = found(100 + RANDOM.normal(size=(300, 16)), crowd)
    assert mixed.cosine_p01 > 0.98
    assert not mixed.same_space


@pytest.mark.parametrize(("outliers", "same"), [(1, True), (3, True), (4, False)])
def test_one_outlier_of_a_hundred_is_told_from_a_moved_space(outliers: int, same: bool) -> None:
    moved = VECTORS.copy()
    moved[:outliers] = -moved[:outliers]
    report = found(moved, VECTORS)
    assert report.cosine_min == pytest.approx(-1)
    assert report.same_space is same


def test_ties_agree_whatever_their_order() -> None:
    copies = np.repeat(RANDOM.normal(size=(20, 8)), 15, axis=0)
    assert neighbour_agreement(copies, copies + RANDOM.normal(size=copies.shape) * 1e-9, 10) > 0.999


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_samples_than_neighbours_are_compared_as_they_are(count: int) -> None:
    few = found(VECTORS[:count], VECTORS[:count], neighbours=10)
    assert few.same_space
    assert few.neighbours == count - 1


def test_another_dimension_and_nan_are_another_space() -> None:
    wider = found(VECTORS, VECTORS[:, :8])
    assert (wider.same_space, wider.cosine_min, wider.dimension, wider.other_dimension) == (False, None, 16, 8)
    broken = VECTORS.copy()
    broken[0, 0] = np.nan
    assert not found(broken, VECTORS).same_space


# --- in a proof ---------------------------------------------------------------------------------


def proved(folder: Path, body: str, same_space: str, function: Any = None, **more: Any) -> Any:
    made = spec(embedding={"same_space": same_space})
    for name in ("this", "stable"):
        (folder / name).mkdir(exist_ok=True)
    other = StableVersion(7, made, graph(folder / "stable", "y = Identity (x)"))
    return prove(made, function or (lambda x: -x), graph(folder / "this", body), stable=other, **more)


def test_a_moved_space_stops_the_release_only_where_it_must_be_the_same(tmp_path: Path) -> None:
    report = proved(tmp_path, "y = Neg (x)", "required")
    assert failures(report) == ["EmbeddingMoved"]
    with pytest.raises(EmbeddingMoved, match=r"99 % of the cosines with stable's version 7 are at least -1\.0000"):
        report.raise_for_failure()
    assert (report.embedding.samples, report.embedding.generated) == (256, True)
    reported = proved(tmp_path, "y = Neg (x)", "reported")
    assert reported.passed
    assert reported.embedding.same_space is reported.summary()["same_space"] is False
    assert proved(tmp_path, "y = Identity (x)", "required", lambda x: x).passed


def test_the_users_samples_are_taken_up_to_a_bound(tmp_path: Path) -> None:
    samples = {"x": RANDOM.normal(size=(2100, 3)).astype(np.float32)}
    report = proved(tmp_path, "y = Identity (x)", "required", lambda x: x, samples=samples)
    assert report.passed
    assert (report.embedding.samples, report.embedding.generated) == (2000, False)


def test_the_new_version_is_closed_before_stables_weights_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Candidate]] = []

    class Watched(Candidate):
        def __init__(self, *arguments: Any) -> None:
            assert not any(earlier() is not None for earlier in alive)
            super().__init__(*arguments)
            alive.append(weakref.ref(self))

    monkeypatch.setattr(providers, "Candidate", Watched)
    assert proved(tmp_path, "y = Identity (x)", "required", lambda x: x).passed
    assert len(alive) == 2


def test_another_dimension_is_said(tmp_path: Path) -> None:
    made = spec(embedding={"same_space": "required"})
    path = graph(tmp_path, "y = Identity (x)")
    (tmp_path / "stable").mkdir()
    body = "k = Constant <value = int64[1] {1}> ()\n y = Concat <axis = 1> (x, x)"
    wide = graph(tmp_path / "stable", body, "float[batch,6] y")
    other = spec(shape=[6])
    report = prove(made, lambda x: x, path, stable=StableVersion(7, other, wide))
    assert failures(report) == ["EmbeddingMoved"]
    assert "they have 3 dimensions, those of stable's version 7 6" in report.failures[0].message
