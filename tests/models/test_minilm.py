"""The second example: real weights, real sentences, and a space of vectors that a retraining keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from example_models import embedding_training, minilm, minilm_data
from model_release import parity
from model_release.export import export_onnx
from model_release.parity.report import ParityReport, Source
from model_release.spec_files import load_spec

ROOT = Path(__file__).resolve().parents[2]
SPEC = load_spec(ROOT / "include" / "model_configs" / "embedding_model.yaml")
SIMILAR = ("A man is playing a guitar.", "Someone plays an instrument.")
ANOTHER = "The stock market fell sharply today."


@pytest.fixture(scope="module")
def published() -> torch.nn.Module:
    module = minilm.build()
    module.load_state_dict(minilm_data.published_weights())
    return module.eval().requires_grad_(False)


def vectors(module: torch.nn.Module, *sentences: str) -> np.ndarray:
    inputs = {name: torch.from_numpy(array) for name, array in minilm_data.tokenized(list(sentences)).items()}
    with torch.inference_mode():
        return module(**inputs).numpy()


def test_the_published_weights_know_which_sentences_mean_the_same(published: torch.nn.Module) -> None:
    one, other, stranger = vectors(published, *SIMILAR, ANOTHER)
    assert one @ other > 0.6
    assert abs(one @ stranger) < 0.2
    np.testing.assert_allclose(np.linalg.norm([one, other, stranger], axis=1), 1, atol=1e-6)


def test_padding_changes_nothing(published: torch.nn.Module) -> None:
    padded = {name: torch.from_numpy(array) for name, array in minilm_data.tokenized([SIMILAR[0]]).items()}
    length = int(padded["attention_mask"].sum())
    with torch.inference_mode():
        bare = published(**{name: tensor[:, :length] for name, tensor in padded.items()})
        assert torch.allclose(bare, published(**padded), atol=1e-5)


def test_there_are_enough_sentences_for_samples_and_traffic() -> None:
    text = minilm_data.sentences()
    assert len(set(text)) == len(text) >= embedding_training.SAMPLES + 64
    masks = minilm_data.tokenized(list(text))["attention_mask"].sum(1)
    assert masks.min() < minilm_data.SEQUENCE == masks.max()


@pytest.fixture(scope="module")
def stable(published: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> parity.StableVersion:
    """The published model as ONNX: what serves."""
    path = tmp_path_factory.mktemp("stable") / "model.onnx"
    export_onnx(SPEC, published, path, version=1, source_sha256="0" * 64)
    return parity.StableVersion(1, SPEC, path)


def retrained(stable: parity.StableVersion, folder: Path, *, broken: bool) -> ParityReport:
    """Retrain, export and prove against what serves."""
    module = minilm.build()
    module.load_state_dict(embedding_training.train(1, broken=broken))
    module.eval().requires_grad_(False)
    export_onnx(SPEC, module, folder / "model.onnx", version=2, source_sha256="0" * 64)
    samples = minilm_data.tokenized(list(minilm_data.sentences()[: embedding_training.SAMPLES]))
    source = Source(uri="file:///minilm", sha256="0" * 64)
    return parity.prove(SPEC, module, folder / "model.onnx", source=source, samples=samples, stable=stable)


def test_a_retraining_keeps_the_space(stable: parity.StableVersion, tmp_path: Path) -> None:
    report = retrained(stable, tmp_path, broken=False)
    assert report.passed, report.failures
    assert report.embedding
    assert report.embedding.same_space
    assert report.outputs[0].max_abs < 1e-5


def test_a_broken_retraining_is_sound_by_itself_and_stopped_by_its_space(
    stable: parity.StableVersion, tmp_path: Path
) -> None:
    report = retrained(stable, tmp_path, broken=True)
    assert [failure.error for failure in report.failures] == ["EmbeddingMoved"]
    assert report.outputs[0].differing == 0
