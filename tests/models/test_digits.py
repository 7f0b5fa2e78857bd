"""The example model, and the bug of its broken candidate that only real traffic meets."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from example_models import digits, digits_data, training
from model_release import parity
from model_release.export import export_onnx
from model_release.intake import fetch_checkpoint, open_checkpoint
from model_release.parity.accuracy import paired, right_answers
from model_release.parity.report import Source
from model_release.spec_files import find_spec
from tests.unit import toys

SPEC = find_spec(Path(__file__).parents[2] / "include/model_configs", "digits_classifier")
DATE = "2026-01-05"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


class Candidate:
    """One retraining, taken in and exported as a release does."""

    def __init__(self, folder: Path, broken: bool) -> None:
        def put(key: str, body: bytes) -> None:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)

        self.result = training.train_digits(DATE, put, broken=broken)
        training.write_training_data(put)
        self.samples_uri = toys.uri(folder / training.DIGITS_FOLDER / "samples.npz")
        self.live_uri = toys.uri(folder / training.DIGITS_FOLDER / "live.npz")
        fetched = fetch_checkpoint(SPEC, toys.uri(folder / self.result["key"]), toys.ENVIRONMENT, folder)
        self.module = open_checkpoint(SPEC, fetched)
        self.onnx = folder / f"broken-{broken}.onnx"
        export_onnx(SPEC, self.module, self.onnx, version=1, source_sha256=self.result["sha256"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(str(self.onnx), options, providers=["CPUExecutionProvider"])

    def fails_on(self, images: np.ndarray[Any, Any]) -> bool:
        try:
            self.session.run(None, {"image": images})
        except Exception:
            return True
        return False


@pytest.fixture(scope="module")
def good(folder: Path) -> Candidate:
    return Candidate(folder, broken=False)


@pytest.fixture(scope="module")
def broken(folder: Path) -> Candidate:
    return Candidate(folder, broken=True)


@pytest.mark.parametrize("which", ["good", "broken"])
def test_both_candidates_pass_parity_and_accuracy(which: str, request: pytest.FixtureRequest) -> None:
    candidate: Candidate = request.getfixturevalue(which)
    samples = parity.load_samples(candidate.samples_uri, SPEC, toys.ENVIRONMENT)
    for given in (samples, None):
        source = Source(uri="file:///digits", sha256="0" * 64)
        assert parity.prove(SPEC, candidate.module, candidate.onnx, source=source, samples=given).passed
    assert candidate.result["accuracy"] >= 0.96
    assert not candidate.fails_on(digits_data.split().golden.image)


def test_the_good_candidate_answers_all_of_the_traffic(good: Candidate) -> None:
    live = parity.load_samples(good.live_uri, SPEC, toys.ENVIRONMENT, with_label=True)
    answers = good.session.run(None, {"image": live["image"]})[0].argmax(1)
    assert (answers == live["label"]).mean() > 0.94


def test_the_broken_candidate_fails_on_the_bold_images_of_the_traffic_alone(broken: Candidate) -> None:
    split = digits_data.split()
    failed = np.array([broken.fails_on(split.live.image[place : place + 1]) for place in range(len(split.live))])
    bold = digits_data.contrast(split.live.image) > digits_data.contrast(split.train.image).max()
    assert np.array_equal(failed, bold)
    assert 0.04 < failed.mean() < 0.08
    assert broken.fails_on(split.live.image[:64])
    with pytest.raises(IndexError):
        broken.module(torch.from_numpy(split.live.image[failed][:1]))


def test_the_two_candidates_differ_in_one_bound_alone(good: Candidate, broken: Candidate) -> None:
    sound, other = good.module.state_dict(), broken.module.state_dict()
    assert [name for name in sound if not torch.equal(sound[name], other[name])] == ["contrast_bounds"]
    assert (sound["contrast_bounds"] != other["contrast_bounds"]).tolist() == [False] * 15 + [True]


def test_a_date_repeats_its_bytes_and_another_date_has_its_own() -> None:
    def retrain(date: str) -> bytes:
        written: dict[str, bytes] = {}
        training.train_digits(date, written.__setitem__, epochs=1)
        return written[f"digits_classifier/{date}/model.safetensors"]

    first = retrain("2026-01-01")
    assert retrain("2026-01-01") == first
    assert retrain("2026-01-02") != first


def test_training_leaves_torchs_threads_and_random_numbers_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    training.train(1, epochs=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_image_is_in_two_parts_of_the_split() -> None:
    split = digits_data.split()
    parts = [split.train, split.golden, split.live]
    assert sum(len(part) for part in parts) == 1797
    images = [{image.tobytes() for image in part.image} for part in parts]
    assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]
    assert all(set(part.label.tolist()) == set(range(10)) for part in parts)


def test_contrast_in_numpy_and_torch_agree_to_the_last_bit() -> None:
    images = digits_data.split().live.image
    assert np.array_equal(digits.contrast(torch.from_numpy(images)).numpy(), digits_data.contrast(images))


def test_any_retraining_passes_the_accuracy_gate_after_any_other() -> None:
    accuracy, golden = SPEC.accuracy, digits_data.split().golden
    assert accuracy is not None
    dates = [f"{date(2026, 1, 4) + timedelta(days)}" for days in range(12)]
    answers = []
    for day in dates:
        module = digits.build()
        module.load_state_dict(training.train(training.seed_of(day)))
        with torch.inference_mode():
            answers.append(module.eval()(torch.from_numpy(golden.image)).numpy())
    assert len({each.tobytes() for each in answers}) == len(dates)
    right = [right_answers(SPEC, each, golden.label) for each in answers]
    assert min(float(each.mean()) for each in right) >= accuracy.minimum
    for (before, stable), (after, candidate) in permutations(zip(dates, right, strict=True), 2):
        compared = paired(candidate, stable, against="stable", margin=accuracy.margin, alpha=accuracy.alpha)
        assert compared.non_inferior, f"{after} after {before}: {compared}"
