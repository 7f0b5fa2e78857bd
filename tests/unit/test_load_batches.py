"""How many replicas load at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_release.environment import Replica
from model_release.triton.batches import split


def replicas(count: int) -> list[Replica]:
    return [Replica(name=f"r-{i}", http="h:1", grpc="h:2", metrics="h:3") for i in range(count)]


def sizes(count: int, most: int, serving: dict[str, set[str]] | None = None) -> list[int]:
    fleet = replicas(count)
    return [len(batch) for batch in split(fleet, serving or {each.name: set() for each in fleet}, most)]


def test_as_many_as_are_asked_for_where_nothing_else_is_served() -> None:
    assert sizes(50, 20) == [20, 20, 10]
    assert sizes(3, 8) == [3]
    assert sizes(1, 1) == [1]


def test_one_replica_is_left_for_another_model() -> None:
    assert sizes(4, 4, {f"r-{i}": {"other"} for i in range(4)}) == [3, 1]
    assert sizes(2, 2, {"r-0": {"other"}, "r-1": {"other"}}) == [1, 1]


def test_the_only_replica_of_another_model_loads_by_itself() -> None:
    assert sizes(4, 4, {"r-0": set(), "r-1": set(), "r-2": {"other"}, "r-3": set()}) == [2, 1, 1]


@given(
    st.lists(st.sets(st.sampled_from(["a", "b", "c"])), min_size=1, max_size=12),
    st.integers(min_value=1, max_value=12),
)
def test_every_replica_loads_once_and_nothing_else_goes_unserved(models: list[set[str]], most: int) -> None:
    fleet = replicas(len(models))
    serving = dict(zip((each.name for each in fleet), models, strict=True))
    batches = list(split(fleet, serving, most))
    assert [replica for batch in batches for replica in batch] == fleet
    for batch in batches:
        left = set().union(*(serving[each.name] for each in fleet if each not in batch))
        assert len(batch) <= most
        assert len(batch) == 1 or left == set().union(*models)
