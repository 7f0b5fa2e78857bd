"""The third example through the whole story: released, retrained, and stopped where it learned other labels."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from example_models import text_training
from example_models.text_tokens import LABELS, tokenized
from model_release.environment import Environment
from model_release.errors import NotAsAsked
from model_release.identity import Kind, Release
from model_release.triton.replica import ReplicaClient
from sandbox.traffic import http_body
from tests.sandbox.releasing import Clients, Model, one_stage, remove

FIRST, WRONG = 20260101000000, 20260102000000
TEXTS = ["@united thank you so much, best flight ever!", "worst delay ever, I hate this, lost my bag again", "hi"]


@pytest.fixture
def text(environment: Environment) -> Iterator[Model]:
    text_training.publish_texts(environment)
    made = Model(one_stage("text_classifier", f"text_{uuid.uuid4().hex[:8]}"), environment)
    yield made
    remove(made)


def build(model: Model, version: int, date: str, *, broken: bool = False) -> Release:
    uri = text_training.retrain_text(date, model.environment, broken=broken)["uri"]
    return Release(model.name, version, Kind.BUILD, f"run-{version}", checkpoint=uri, by="tests")


def test_it_is_released_and_a_training_on_other_labels_changes_nothing(text: Model) -> None:
    with Clients(text, [http_body({"input_ids": tokenized([each])}) for each in TEXTS], rate_per_s=20) as clients:
        text.release(build(text, FIRST, "2026-01-01"))
        stable = text.state.stable
        with pytest.raises(NotAsAsked, match="golden"):
            text.release(build(text, WRONG, "2026-01-02", broken=True))
    assert stable
    assert text.state.stable == stable
    assert clients.by_version().keys() == {str(FIRST)}
    for replica in text.environment.pairs["default"].fleet(stable.fleet).replicas:
        with ReplicaClient(replica, text.environment) as client:
            logits = client.infer(text.name, {"input_ids": tokenized(TEXTS[:2])})["logits"]
            assert [LABELS[place] for place in logits.argmax(1)] == ["positive", "negative"]
