"""TorchScript on the pytorch backend through the whole story: only the file that its training named is released."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from example_models import embedding_training, minilm_data, training
from model_release.environment import Environment
from model_release.errors import NotAsAsked
from model_release.identity import Kind, Release
from model_release.repository.archive import Archive
from model_release.repository.store import ObjectStore
from model_release.triton.replica import ReplicaClient
from sandbox.traffic import http_body
from tests.sandbox.releasing import Clients, Model, one_stage, remove

FIRST, OTHER = 20260101000000, 20260102000000
KEY = f"{embedding_training.TRACED_FOLDER}/published/model.pt"
URI = f"s3://{training.TRAINING_BUCKET}/{KEY}"


@pytest.fixture
def embedding(environment: Environment) -> Iterator[Model]:
    embedding_training.publish_sentences(environment, embedding_training.TRACED_FOLDER)
    made = Model(one_stage("embedding_model_torchscript", f"traced_{uuid.uuid4().hex[:8]}"), environment)
    yield made
    remove(made)


def build(model: Model, version: int, sha256: str) -> Release:
    return Release(model.name, version, Kind.BUILD, f"run-{version}", checkpoint=URI, sha256=sha256, by="tests")


def test_it_is_released_as_it_is_and_no_other_file_than_the_named_one(embedding: Model) -> None:
    written = embedding_training.write_traced(
        minilm_data.published_weights(), KEY, training.s3_put(embedding.environment)
    )
    sentences = minilm_data.tokenized(["A man is playing a guitar.", "Someone plays an instrument."])
    body = http_body({name: array[:1] for name, array in sentences.items()})
    with Clients(embedding, [body], rate_per_s=5) as clients:
        embedding.release(build(embedding, FIRST, written["sha256"]))
        with pytest.raises(NotAsAsked, match="the spec pins"):
            embedding.release(build(embedding, OTHER, "ab" * 32))
    stable = embedding.state.stable
    assert stable
    assert stable.version == FIRST
    assert clients.by_version().keys() == {str(FIRST)}
    for replica in embedding.environment.pairs["default"].fleet(stable.fleet).replicas:
        with ReplicaClient(replica, embedding.environment) as client:
            one, other = client.infer(embedding.name, sentences)["embedding"]
            assert one @ other > 0.6
            np.testing.assert_allclose(np.linalg.norm(one), 1, atol=1e-5)
            assert client.config(embedding.name).backend == "pytorch"
    manifest = Archive(ObjectStore(embedding.environment.s3), embedding.name).require(FIRST)
    assert manifest.files["model.pt"].sha256 == manifest.source.sha256 == written["sha256"]
    assert "model.onnx" not in manifest.files
