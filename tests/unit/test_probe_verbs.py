"""The probe of a store, against an S3 in memory that lacks one verb at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model_release.environment import Environment
from model_release.errors import StoreLacksVerb, StoreUnavailable
from model_release.identity import Kind, Release
from model_release.repository import probe as probes
from model_release.repository.probe import VERBS, probe, require_verbs
from model_release.repository.store import ConditionFailed, ObjectStore
from model_release.spec_files import find_spec
from model_release.steps import plan
from tests.unit.fake_s3 import FakeS3

CONFIGS = Path(__file__).resolve().parents[2] / "include" / "model_configs"
CREATE, REPLACE = "PutObject with If-None-Match: *", "PutObject with If-Match"
PARTS = "a multipart upload with the CRC64NVME of the whole object"


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_passed", set())


def test_a_store_that_has_every_verb_passes_and_keeps_nothing_of_the_probe() -> None:
    fake = FakeS3()
    with fake.served() as s3:
        assert probe(s3) == [verb.name for verb in VERBS]

    assert (fake.objects, fake.uploads) == ({}, {})


@pytest.mark.parametrize(
    ("fault", "verb", "did"),
    [
        ("501 to PutObject", "PutObject with a CRC64NVME", "it answered .*NotImplemented"),
        ("reads nothing", "GetObject of what was just written", "does not give back"),
        ("has every key", "GetObject of what was just written", "never written"),
        ("tells no sums", "HeadObject with the CRC64NVME of the whole object", "crc64nvme None"),
        ("takes false sums", "the refusal of a body that differs from its CRC64NVME", "took a body"),
        ("ignores If-None-Match", CREATE, "ignored the condition and took a second write"),
        ("writes despite a lost If-None-Match", CREATE, "overwrote it"),
        ("refuses a new key", CREATE, "refused a write whose condition held"),
        ("ignores If-Match", REPLACE, "ignored the condition and took a write with a stale ETag"),
        ("writes despite a lost If-Match", REPLACE, "overwrote the object"),
        ("refuses the right ETag", REPLACE, "refused a write whose condition held"),
        ("lists late", "ListObjectsV2 of what was just written", "lists 0 objects"),
        ("lists no folders", "ListObjectsV2 of what was just written", "with a delimiter"),
        ("501 to ListObjectsV2", "ListObjectsV2 of what was just written", "it answered .*NotImplemented"),
        ("501 to ObjectCopy", "CopyObject with its CRC64NVME", "it answered .*NotImplemented"),
        ("copies lose sums", "CopyObject with its CRC64NVME", "crc64nvme None"),
        ("501 to CreateMultipartUpload", PARTS, "it answered .*NotImplemented"),
        ("sums of parts", PARTS, "=-1 of"),
        ("501 to UploadPartCopy", "UploadPartCopy with the CRC64NVME of the whole object", "it answered .*NotImpl"),
        ("ignores ranges", "GetObject of a range", "other bytes"),
        ("keeps what is deleted", "DeleteObject", "still has an object"),
        ("405 to DeleteObject", "DeleteObject", "it answered .*SomeError"),
        ("deletes whatever is there", "DeleteObject with If-Match", "took a delete with a stale ETag"),
        ("no Date", "a Date header of the clock of LastModified", "no usable 'date'"),
        ("another clock", "a Date header of the clock of LastModified", "of this moment is of"),
    ],
)
def test_the_verb_that_a_store_lacks_is_named(fault: str, verb: str, did: str) -> None:
    fake = FakeS3(fault)
    with fake.served() as s3, pytest.raises(StoreLacksVerb, match=did) as raised:
        probe(s3)

    assert raised.value.verb == verb
    assert str(raised.value).startswith(f"the store s3://models/own at {s3.endpoint_url} lacks {verb}: ")
    assert "elete" in fault or (fake.objects, fake.uploads) == ({}, {})


@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("verb", ["PutObject", "CreateMultipartUpload"])
def test_a_store_that_refuses_the_keys_or_is_overloaded_lacks_nothing(status: int, verb: str) -> None:
    fake = FakeS3(f"{status} to {verb}")
    with fake.served() as s3, pytest.raises(StoreUnavailable, match="SomeError as told"):
        probe(s3)

    assert (fake.objects, fake.uploads) == ({}, {})


def test_a_probe_that_is_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probes, "VERBS", (*VERBS[:8], replace(VERBS[8], try_in=interrupted)))
    fake = FakeS3()
    with fake.served() as s3, pytest.raises(KeyboardInterrupt):
        probe(s3)

    assert fake.objects == {}


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
def test_a_write_whose_first_answer_was_lost_is_no_refusal(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends it again, and it then fails the condition that it changed itself."""
    put, lost = ObjectStore.put, set()

    def sent_twice(store: ObjectStore, key: str, body: bytes, **how: object) -> str:
        if how.get(condition) and key not in lost:
            lost.add(key)
            put(store, key, body, **how)  # type: ignore[arg-type]
            raise ConditionFailed(key)
        return put(store, key, body, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "put", sent_twice)
    with FakeS3().served() as s3:
        probe(s3)

    assert len(lost) == 1


def test_a_store_that_passed_is_not_probed_again_but_another_prefix_is() -> None:
    fake = FakeS3()
    with fake.served() as s3:
        require_verbs(s3)
        once = fake.requests
        require_verbs(s3)
        assert fake.requests == once

        require_verbs(s3.model_copy(update={"prefix": "another"}))
        assert fake.requests == 2 * once


def test_a_store_that_failed_is_probed_again() -> None:
    fake = FakeS3("ignores If-Match")
    with fake.served() as s3:
        with pytest.raises(StoreLacksVerb):
            require_verbs(s3)
        fake.faults.clear()
        require_verbs(s3)


def test_a_release_on_a_store_without_a_verb_ends_before_its_claim(tmp_path: Path) -> None:
    replica = {"replicas": [{"name": "one", "http": "h:1", "grpc": "h:2", "metrics": "h:3"}]}
    fake = FakeS3("ignores If-Match")
    with fake.served() as s3:
        environment = Environment.model_validate(
            {
                "s3": s3,
                "pairs": {"default": dict.fromkeys(("blue", "green", "bench"), replica)},
                "router": {"directory": tmp_path, "admin": ["h:4"], "http": "h:5"},
            }
        )
        release = Release("digits_classifier", 20260101000000, Kind.BUILD, "run-1")
        with pytest.raises(StoreLacksVerb, match="No claim was taken"):
            plan.run(release, environment, find_spec(CONFIGS, "digits_classifier"))

    assert fake.objects == {}
