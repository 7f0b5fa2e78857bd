"""The second example through the whole story: released, retrained, and stopped where its vectors move."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from example_models import embedding_training, minilm_data
from model_release.environment import Environment
from model_release.errors import NotAsAsked
from model_release.identity import Kind, Release
from model_release.repository.archive import Archive
from model_release.repository.store import ObjectStore
from model_release.triton.replica import ReplicaClient
from sandbox.traffic import http_body
from tests.sandbox.releasing import Clients, Model, one_stage, remove

FIRST, SECOND, MOVED = 20260101000000, 20260102000000, 20260103000000


@pytest.fixture
def embedding(environment: Environment) -> Iterator[Model]:
    embedding_training.publish_sentences(environment)
    made = Model(one_stage("embedding_model", f"embedding_{uuid.uuid4().hex[:8]}"), environment)
    yield made
    remove(made)


def build(model: Model, version: int, date: str, *, broken: bool = False, benchmark: bool = True) -> Release:
    uri = embedding_training.retrain_embedding(date, model.environment, broken=broken)["uri"]
    return Release(model.name, version, Kind.BUILD, f"run-{version}", checkpoint=uri, by="tests", benchmark=benchmark)


def test_it_is_released_and_retrained_and_a_moved_space_changes_nothing(embedding: Model) -> None:
    sentences = minilm_data.tokenized(["A man is playing a guitar.", "Someone plays an instrument."])
    bodies = [http_body({name: array[place : place + 1] for name, array in sentences.items()}) for place in range(2)]
    with Clients(embedding, bodies, rate_per_s=10) as clients:
        embedding.release(build(embedding, FIRST, "2026-01-01"))
        embedding.release(build(embedding, SECOND, "2026-01-02", benchmark=False))
        stable = embedding.state.stable
        assert stable
        assert stable.version == SECOND
        with pytest.raises(NotAsAsked, match="do not lie in the space of stable's any more"):
            embedding.release(build(embedding, MOVED, "2026-01-03", broken=True))
    assert embedding.state.stable == stable
    assert clients.by_version().keys() == {str(FIRST), str(SECOND)}
    for replica in embedding.environment.pairs["default"].fleet(stable.fleet).replicas:
        with ReplicaClient(replica, embedding.environment) as client:
            one, other = client.infer(embedding.name, sentences)["embedding"]
            assert one @ other > 0.6
            np.testing.assert_allclose(np.linalg.norm(one), 1, atol=1e-5)
    archive = Archive(ObjectStore(embedding.environment.s3), embedding.name)
    assert {"parity.html", "parity.json", "worst.npz"} <= set(archive.require(SECOND).files)
    assert archive.sealed(MOVED) is None
    assert archive.find(MOVED, "base", "parity.html"), "the report of a failure is what a person wants to look at"
