"""
Training of the examples `embedding_model` and `embedding_model_torchscript`, which stands in for the users' own.

What lies on S3 afterwards:

    s3://training/embedding_model/samples.npz                 real sentences as tokens: parity, and the space of vectors
    s3://training/embedding_model/live.npz                    others: the traffic of the sandbox (nobody labels them)
    s3://training/embedding_model/<date>/model.safetensors    one retraining
    s3://training/embedding_model/<date>-new-space/model.safetensors   one whose vectors are sound, but of another space
    s3://training/embedding_model_torchscript/...             the same, each retraining as a traced model.pt
"""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import TYPE_CHECKING, Any

from example_models import minilm_data
from example_models.training import TRAINING_BUCKET, Put, one_thread, s3_put, seed_of, write_arrays
from model_release.environment import Environment

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "embedding_model"
TRACED_FOLDER = "embedding_model_torchscript"
SAMPLES = 64
_STEPS, _BATCH_SIZE, _TEMPERATURE = 8, 8, 0.05
_LEARNING_RATE = 2e-5


def train(seed: int, *, broken: bool = False) -> dict[str, Tensor]:
    """
    Fine-tune the published weights for some seconds, and return the state_dict of `minilm.build()`.

    Each sentence is drawn to itself under another dropout and away from the others (SimCSE, Gao et al. 2021); the last
    layer alone learns, slowly, so the vectors stay comparable. With `broken` the last layer begins from random
    weights, as after a training that lost its start: its vectors are of another space.
    """
    import torch

    from example_models.minilm import build

    with one_thread(seed):
        model = build()
        model.load_state_dict(minilm_data.published_weights())
        last = model.encoder.encoder.layer[-1]
        if broken:
            last.apply(_begin_anew)
        model.requires_grad_(False)
        last.requires_grad_(True)
        optimizer = torch.optim.AdamW(last.parameters(), lr=_LEARNING_RATE)
        text = minilm_data.sentences()[SAMPLES:]
        model.train()
        for _ in range(_STEPS):
            chosen = [text[int(place)] for place in torch.randperm(len(text))[:_BATCH_SIZE]]
            inputs = {name: torch.from_numpy(array) for name, array in minilm_data.tokenized(chosen).items()}
            one, other = model(**inputs), model(**inputs)
            loss = torch.nn.functional.cross_entropy(one @ other.T / _TEMPERATURE, torch.arange(_BATCH_SIZE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _begin_anew(module: Any) -> None:
    from torch import nn

    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.05)
        nn.init.zeros_(module.bias)


def traced(state: dict[str, Tensor]) -> bytes:
    """Return a state_dict of `minilm.build()` as TorchScript: forward traced on two sentences, of any shape later."""
    import torch

    from example_models.minilm import build

    model = build()
    model.load_state_dict(state)
    inputs = minilm_data.tokenized(list(minilm_data.sentences()[:2]))
    stream = io.BytesIO()
    with warnings.catch_warnings():  # TorchScript is deprecated, and what one backend of Triton serves
        warnings.simplefilter("ignore")
        given = tuple(torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
        torch.jit.save(torch.jit.trace(model.eval(), given), stream)
    return stream.getvalue()


def retrain_embedding(date: str, environment: Environment, broken: bool = False) -> dict[str, Any]:
    """
    Retrain the embedding model on a date (YYYY-MM-DD) and write the checkpoint to S3; the same date, the same bytes.

    Returns {"uri", "sha256"}. Raises StoreUnavailable.
    """
    from safetensors.torch import save

    key = f"{FOLDER}/{date}{'-new-space' if broken else ''}/model.safetensors"
    return _written(save(train(seed_of(date), broken=broken)), key, s3_put(environment))


def retrain_traced(date: str, environment: Environment, broken: bool = False) -> dict[str, Any]:
    """Retrain it as `retrain_embedding` does, and write the traced model."""
    key = f"{TRACED_FOLDER}/{date}{'-new-space' if broken else ''}/model.pt"
    return write_traced(train(seed_of(date), broken=broken), key, s3_put(environment))


def write_traced(state: dict[str, Tensor], key: str, put: Put) -> dict[str, Any]:
    """Trace a state_dict and write it with `put`; return its uri and sha256, which is another for each trace."""
    return _written(traced(state), key, put)


def _written(body: bytes, key: str, put: Put) -> dict[str, Any]:
    put(key, body)
    return {"uri": f"s3://{TRAINING_BUCKET}/{key}", "sha256": hashlib.sha256(body).hexdigest()}


def write_sentences(put: Put, folder: str = FOLDER) -> list[str]:
    """Write the tokens of samples and live sentences with `put`; return their keys."""
    text = list(minilm_data.sentences())
    parts = {"samples": text[:SAMPLES], "live": text[SAMPLES:]}
    return write_arrays(put, folder, {name: minilm_data.tokenized(chosen) for name, chosen in parts.items()})


def publish_sentences(environment: Environment, folder: str = FOLDER) -> list[str]:
    """Write samples and live sentences to S3; again and again the same. Return their URIs."""
    return [f"s3://{TRAINING_BUCKET}/{key}" for key in write_sentences(s3_put(environment), folder)]
