"""The third example: real tweets, words without a vocabulary, and labels that a broken training mixes up."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from example_models import text, text_data, text_training
from example_models.text_tokens import LABELS, MOST_TOKENS, PLACES, token_ids, tokenized
from model_release import parity
from model_release.export import export_onnx
from model_release.parity.report import Source
from model_release.spec_files import load_spec

SPEC = load_spec(Path(__file__).resolve().parents[2] / "include" / "model_configs" / "text_classifier.yaml")
DATE = "2026-01-05"


@pytest.fixture(scope="module")
def written() -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    text_training.write_texts(files.__setitem__)
    return files


@pytest.fixture(scope="module")
def good() -> dict[str, torch.Tensor]:
    return text_training.train(text_training.seed_of(DATE), tweets=6000)


def arrays(body: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(body), allow_pickle=False) as given:
        return dict(given)


def proved(state: dict[str, torch.Tensor], written: dict[str, bytes], folder: Path) -> parity.ParityReport:
    module = text.build()
    module.load_state_dict(state)
    module.eval().requires_grad_(False)
    export_onnx(SPEC, module, folder / "model.onnx", version=1, source_sha256="0" * 64)
    return parity.prove(
        SPEC,
        module,
        folder / "model.onnx",
        source=Source(uri="file:///text", sha256="0" * 64),
        samples=arrays(written["text_classifier/samples.npz"]),
        golden=arrays(written["text_classifier/golden.npz"]),
    )


def test_a_training_learns_more_than_the_commonest_label_and_exports(
    good: dict[str, torch.Tensor], written: dict[str, bytes], tmp_path: Path
) -> None:
    golden = text_data.split().golden
    commonest = np.bincount(golden.label).max() / len(golden)
    assert text_training.accuracy(good, golden) > commonest + 0.15
    report = proved(good, written, tmp_path)
    assert report.passed, report.failures


def test_a_training_on_labels_in_another_order_is_stopped_by_the_golden_set_alone(
    written: dict[str, bytes], tmp_path: Path
) -> None:
    report = proved(text_training.train(1, tweets=4000, broken=True), written, tmp_path)
    assert {failure.error for failure in report.failures} == {"AccuracyTooLow"}
    assert report.outputs[0].differing == 0


def test_padding_changes_nothing(good: dict[str, torch.Tensor]) -> None:
    module = text.build()
    module.load_state_dict(good)
    ids = torch.from_numpy(tokenized(["the flight was late again", "ok"]))
    padded = torch.nn.functional.pad(ids, (0, 32))
    with torch.inference_mode():
        assert torch.allclose(module.eval()(ids), module(padded), atol=1e-5)


def test_a_date_repeats_its_bytes_and_another_date_has_its_own() -> None:
    def retrain(date: str) -> bytes:
        kept: dict[str, bytes] = {}
        text_training.train_text(date, kept.__setitem__, tweets=300)
        return kept[f"text_classifier/{date}/model.safetensors"]

    first = retrain("2026-01-01")
    assert retrain("2026-01-01") == first
    assert retrain("2026-01-02") != first


def test_no_text_is_in_two_parts_and_every_label_is_in_each() -> None:
    split = text_data.split()
    parts = [split.train, split.golden, split.live]
    texts = [set(part.text) for part in parts]
    assert sum(len(part) for part in texts) == sum(len(part) for part in parts) > 35_000
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert all(set(part.label.tolist()) == set(range(len(LABELS))) for part in parts)


def test_every_text_becomes_ids_that_the_model_config_allows() -> None:
    ids = tokenized(["", "@somebody look: https://example.org/a?b=c !!! :-)", "word " * 500])
    assert ids.shape == (3, MOST_TOKENS)
    assert (ids[0] == 0).all()
    assert ids.max() < PLACES == SPEC.inputs[0].range[1] + 1
    assert SPEC.dynamic_axes["tokens"].max == MOST_TOKENS


def test_links_mentions_and_case_are_not_told_apart() -> None:
    assert token_ids("@Ann LOVES http://a.example") == token_ids("@bob loves https://b.example/c")
    assert token_ids("love") != token_ids("hate")


def test_the_tokenizer_needs_numpy_alone() -> None:
    code = (
        "import sys; import example_models.text_tokens as tokens; tokens.tokenized(['a b']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert {"example_models", "numpy"} <= loaded
    assert not loaded & {"torch", "tokenizers", "transformers", "sklearn", "model_release"}
