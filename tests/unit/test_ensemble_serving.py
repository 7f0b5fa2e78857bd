"""An ensemble's folders in a serving prefix: its own and its parts', and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.steps.prune import _in_serving
from tests.unit.fake_s3 import FakeS3

ROOT = "serving/default/blue"


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    """Version 2 of an ensemble, what is left of version 1, and two models with names like its own."""
    with FakeS3().served() as place:
        made = ObjectStore(place)
        keys = [
            *("whole/config.pbtxt", "whole/1/.keep", "whole/2/.keep"),
            *("whole__start/config.pbtxt", "whole__start/1/model.py", "whole__start/2/model.py"),
            *("whole__gone/config.pbtxt", "whole__gone/1/model.py"),
            *("whole_v2/config.pbtxt", "whole_v2__start/config.pbtxt", "who/config.pbtxt"),
        ]
        for key in keys:
            made.put(f"{ROOT}/{key}", b"")
        yield made


def left(store: ObjectStore) -> set[str]:
    return {entry.key.removeprefix(f"{ROOT}/") for entry in store.objects(ROOT)}


def nothing() -> None:
    """Stand for a claim that is never lost."""


OTHERS = {"whole_v2/config.pbtxt", "whole_v2__start/config.pbtxt", "who/config.pbtxt"}


def test_keeping_a_version_removes_the_parts_that_it_does_not_have(store: ObjectStore) -> None:
    ServingPrefix(store, "default", "blue", "whole").keep_only(2, nothing)

    kept = {"whole/config.pbtxt", "whole/2/.keep", "whole__start/config.pbtxt", "whole__start/2/model.py"}
    assert left(store) == kept | OTHERS


def test_removing_it_removes_all_its_parts_and_its_own_config_before_theirs(store: ObjectStore) -> None:
    prefix, seen = ServingPrefix(store, "default", "blue", "whole"), list[set[str]]()
    assert not prefix.is_empty()

    prefix.delete(lambda: seen.append({key for key in left(store) if key.endswith("config.pbtxt")} - OTHERS))

    assert left(store) == OTHERS
    assert prefix.is_empty()
    assert "whole/config.pbtxt" in seen[0]
    assert all("whole/config.pbtxt" not in configs for configs in seen[1:])


def test_a_part_that_is_left_alone_is_no_empty_prefix(store: ObjectStore) -> None:
    for entry in store.objects(f"{ROOT}/whole/"):
        store.delete(entry.key)

    assert not ServingPrefix(store, "default", "blue", "whole").is_empty()


def test_a_version_stays_in_the_archive_while_any_part_of_it_is_served(store: ObjectStore) -> None:
    for entry in store.objects(f"{ROOT}/whole/"):
        store.delete(entry.key)

    assert sorted(_in_serving(store, "whole")) == [1, 2]
    assert _in_serving(store, "whole_v2") == {}
