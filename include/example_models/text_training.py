"""
Training of the example `text_classifier`, which stands in for the users' own.

What lies on S3 afterwards:

    s3://training/text_classifier/samples.npz                 real tweets as tokens: parity
    s3://training/text_classifier/golden.npz                  held-out tweets with `label`: accuracy
    s3://training/text_classifier/live.npz                    others with `label`: the traffic of the sandbox
    s3://training/text_classifier/<date>/model.safetensors    one retraining
    s3://training/text_classifier/<date>-label-bug/model.safetensors   one that learned the labels in another order
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from example_models import text_data
from example_models.text_tokens import LABELS, PADDING, tokenized
from example_models.training import TRAINING_BUCKET, Put, one_thread, s3_put, seed_of, write_arrays
from model_release.environment import Environment

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "text_classifier"
EPOCHS, TWEETS = 3, 12_000
_SAMPLES = 64
_BATCH_SIZE, _LEARNING_RATE = 128, 5e-3


def train(seed: int, *, tweets: int = TWEETS, broken: bool = False) -> dict[str, Tensor]:
    """
    Train `text.build()` on so many random training tweets and return its state_dict.

    With `broken` the labels come in the order positive, neutral, negative: what a change of the labelling tool does.
    """
    import torch

    from example_models.text import build

    whole = text_data.split().train
    chosen = whole.take(np.random.default_rng(seed).permutation(len(whole))[:tweets])
    ids = torch.from_numpy(tokenized(chosen.text))
    labels = torch.from_numpy(len(LABELS) - 1 - chosen.label if broken else chosen.label)
    lengths = (ids != PADDING).sum(1).clamp(min=1)
    with one_thread(seed):
        model = build().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
        steps = EPOCHS * -(-len(labels) // _BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(labels)).split(_BATCH_SIZE):
                logits = model(ids[batch, : int(lengths[batch].max())])
                loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def accuracy(state: dict[str, Tensor], texts: text_data.Texts) -> float:
    """Return the share of texts that a checkpoint reads rightly."""
    import torch

    from example_models.text import build

    model = build()
    model.load_state_dict(state)
    with torch.inference_mode():
        answers = model.eval()(torch.from_numpy(tokenized(texts.text))).argmax(1).numpy()
    return float((answers == texts.label).mean())


def train_text(date: str, put: Put, *, tweets: int = TWEETS, broken: bool = False) -> dict[str, Any]:
    """
    Train on a date (YYYY-MM-DD), write the checkpoint with `put`, and return its key, sha256 and golden accuracy.

    The same date gives the same bytes.
    """
    from safetensors.torch import save

    state = train(seed_of(date), tweets=tweets, broken=broken)
    body = save(state)
    key = f"{FOLDER}/{date}{'-label-bug' if broken else ''}/model.safetensors"
    put(key, body)
    return {
        "key": key,
        "sha256": hashlib.sha256(body).hexdigest(),
        "accuracy": accuracy(state, text_data.split().golden),
    }


def write_texts(put: Put) -> list[str]:
    """Write samples, golden set and live set of the tweets with `put`; return their keys."""
    split = text_data.split()
    first = split.train.take(np.arange(_SAMPLES))
    files: dict[str, dict[str, npt.NDArray[Any]]] = {
        "samples": {"input_ids": tokenized(first.text)},
        "golden": {"input_ids": tokenized(split.golden.text), "label": split.golden.label},
        "live": {"input_ids": tokenized(split.live.text), "label": split.live.label},
    }
    return write_arrays(put, FOLDER, files)


def publish_texts(environment: Environment) -> list[str]:
    """Write samples, golden set and live set to S3; again and again the same. Return their URIs."""
    return [f"s3://{TRAINING_BUCKET}/{key}" for key in write_texts(s3_put(environment))]


def retrain_text(date: str, environment: Environment, broken: bool = False) -> dict[str, Any]:
    """
    Retrain the text classifier on a date (YYYY-MM-DD) and write the checkpoint to S3.

    Returns {"uri", "sha256", "accuracy"}. Raises StoreUnavailable.
    """
    result = train_text(date, s3_put(environment), broken=broken)
    return {"uri": f"s3://{TRAINING_BUCKET}/{result.pop('key')}", **result}
