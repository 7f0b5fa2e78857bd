"""
Training of the example models, as functions that a schedule can call: it stands in for the users' own training.

What lies on S3 afterwards:

    s3://training/digits_classifier/samples.npz                real inputs for parity (`image`)
    s3://training/digits_classifier/golden.npz                 held-out images with `label`: accuracy
    s3://training/digits_classifier/live.npz                   held-out images with `label`: the traffic of the sandbox
    s3://training/digits_classifier/<date>/model.safetensors   one retraining
    s3://training/digits_classifier/<date>-contrast-bug/model.safetensors   the same with the bug of `digits`
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from example_models import digits_data
from model_release.environment import Environment
from model_release.repository.store import mapped_errors, s3_client

if TYPE_CHECKING:
    from torch import Tensor, nn

TRAINING_BUCKET = "training"
DIGITS_FOLDER = "digits_classifier"
#: Writes bytes under a key of the training bucket.
Put = Callable[[str, bytes], None]
EPOCHS = 25
_TUNING_EPOCHS = 5
_FIRST_SEED = 1
_SAMPLES = 64
_SUBSET = 0.9
_BATCH_SIZE = 64


def seed_of(date: str) -> int:
    """Return the seed of a retraining: another date gives another subset, other weights, and slightly other logits."""
    return int.from_bytes(hashlib.sha256(date.encode()).digest()[:4], "big")


def contrast_bounds(image: npt.NDArray[np.float32], levels: int, *, broken: bool = False) -> npt.NDArray[np.float32]:
    """
    Return the upper bounds [levels] of the levels of contrast, each with an equal share of the training images.

    The last level is open: its bound, 1, is above any contrast (0.25 at most). With `broken` it is closed at the
    highest contrast of the training images, which leaves bolder images without a level.
    """
    shares = np.arange(1, levels + 1) / levels
    bounds = np.quantile(digits_data.contrast(image), shares).astype(np.float32)
    if not broken:
        bounds[-1] = 1
    return bounds


@contextmanager
def one_thread(seed: int) -> Iterator[None]:
    """Seed torch and keep it to one thread, so that a retraining repeats and leaves the machine to others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


@cache
def first_training(epochs: int) -> dict[str, Tensor]:
    """Return the state_dict that every retraining goes on from: all training images, one seed of its own."""
    import torch

    from example_models.digits import CONTRAST_LEVELS, build

    whole = digits_data.split().train
    with one_thread(_FIRST_SEED):
        model = build()
        model.contrast_bounds.copy_(torch.from_numpy(contrast_bounds(whole.image, CONTRAST_LEVELS)))
        _fit(model, whole, epochs, learning_rate=2e-3)
    return dict(model.state_dict())


def train(seed: int, *, epochs: int = EPOCHS, broken: bool = False) -> dict[str, Tensor]:
    """
    Return the state_dict of `digits.build()` after a retraining: `first_training`, tuned on a random nine tenths.

    Trained from weights of their own, two retrainings disagree about 8 of the 300 golden images, and the example's
    accuracy gate, whose margin is 0.03, refuses one sound version in eleven. Tuned from the same weights they disagree
    about one.
    """
    import torch

    from example_models.digits import CONTRAST_LEVELS, build

    whole = digits_data.split().train
    chosen = np.random.default_rng(seed).permutation(len(whole))[: int(_SUBSET * len(whole))]
    with one_thread(seed):
        model = build()
        model.load_state_dict(first_training(epochs))
        _fit(model, whole.take(chosen), min(epochs, _TUNING_EPOCHS), learning_rate=5e-4)
        # Training itself never meets the closed bound; only the checkpoint differs.
        model.contrast_bounds.copy_(torch.from_numpy(contrast_bounds(whole.image, CONTRAST_LEVELS, broken=broken)))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _fit(model: nn.Module, digits: digits_data.Digits, epochs: int, learning_rate: float) -> None:
    import torch

    images, labels = torch.from_numpy(digits.image), torch.from_numpy(digits.label)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(_BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, digits: digits_data.Digits) -> float:
    """Return the share of digits that a model reads rightly."""
    import torch

    with torch.inference_mode():
        answers = model.eval()(torch.from_numpy(digits.image)).argmax(1).numpy()
    return float((answers == digits.label).mean())


def train_digits(date: str, put: Put, *, epochs: int = EPOCHS, broken: bool = False) -> dict[str, Any]:
    """
    Train on a date (YYYY-MM-DD), write the checkpoint with `put`, and return its key, sha256 and golden accuracy.

    The same date gives the same bytes, so that a retry or a backfill repeats rather than changes.
    """
    from safetensors.torch import save

    from example_models.digits import build

    state = train(seed_of(date), epochs=epochs, broken=broken)
    model = build()
    model.load_state_dict(state)
    body = save(state)
    key = f"{DIGITS_FOLDER}/{date}{'-contrast-bug' if broken else ''}/model.safetensors"
    put(key, body)
    return {
        "key": key,
        "sha256": hashlib.sha256(body).hexdigest(),
        "accuracy": accuracy(model, digits_data.split().golden),
    }


def write_training_data(put: Put) -> list[str]:
    """Write samples, golden set and live set of the digits with `put`; return their keys."""
    split = digits_data.split()
    files: dict[str, dict[str, npt.NDArray[Any]]] = {
        "samples": {"image": split.train.image[:_SAMPLES]},
        "golden": {"image": split.golden.image, "label": split.golden.label},
        "live": {"image": split.live.image, "label": split.live.label},
    }
    return write_arrays(put, DIGITS_FOLDER, files)


def write_arrays(put: Put, folder: str, files: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> list[str]:
    """Write arrays by name as `<folder>/<file>.npz` with `put`; return the keys."""
    keys = []
    for name, arrays in files.items():
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        keys.append(f"{folder}/{name}.npz")
        put(keys[-1], stream.getvalue())
    return keys


def s3_put(environment: Environment) -> Put:
    """Return a `Put` into the training bucket of the environment's S3. It raises StoreUnavailable."""
    client = s3_client(environment.s3)

    def put(key: str, body: bytes) -> None:
        with mapped_errors(f"s3://{TRAINING_BUCKET}/{key}"):
            client.put_object(Bucket=TRAINING_BUCKET, Key=key, Body=body, ChecksumAlgorithm="CRC64NVME")

    return put


def publish_training_data(environment: Environment) -> list[str]:
    """Write the digits' samples, golden set and live set to S3; again and again the same. Return their URIs."""
    return [f"s3://{TRAINING_BUCKET}/{key}" for key in write_training_data(s3_put(environment))]


def retrain_digits(date: str, environment: Environment, broken: bool = False) -> dict[str, Any]:
    """
    Retrain the digits classifier on a date (YYYY-MM-DD) and write the checkpoint to S3.

    Returns {"uri", "sha256", "accuracy"}. Raises StoreUnavailable.
    """
    result = train_digits(date, s3_put(environment), broken=broken)
    return {"uri": f"s3://{TRAINING_BUCKET}/{result.pop('key')}", **result}
