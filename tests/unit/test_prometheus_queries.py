"""Which queries a gate may name, and which of their samples have to be fresh."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from model_release.gates.looks import Proportion
from model_release.gates.sources import Counted, since
from model_release.gates.sources.prometheus import _selectors
from model_release.spec import PromqlSource


@pytest.mark.parametrize("taken", ["rate(a_total[5m])", "sum(increase(a_total[1m]))", "irate (a[1m])"])
def test_a_query_that_takes_differences_itself_is_refused(taken: str) -> None:
    with pytest.raises(ValidationError, match="name the raw counter"):
        PromqlSource(promql_good="a_total", promql_total=taken)


@pytest.mark.parametrize(
    ("query", "selectors"),
    [
        ("clicks_total", ["clicks_total"]),
        ('sum by (pod) (clicks_total{model="m",le="+Inf"})', ['clicks_total{model="m",le="+Inf"}']),
        ('sum(a{x="b{c}"}) + on (pod) b_total', ['a{x="b{c}"}', "b_total"]),
        ("max without (pod) (a:b_total) or vector(0)", ["a:b_total"]),
    ],
)
def test_the_samples_behind_a_query_are_found(query: str, selectors: list[str]) -> None:
    assert _selectors(query) == selectors


def counted(good: float, total: float) -> dict[str, Counted]:
    return {"canary": Counted({"a": good}, {"a": total})}


def test_a_new_pod_says_nothing_before_its_second_reading() -> None:
    grown = {"canary": Counted({"a": 2, "b": 100}, {"a": 4, "b": 200})}
    assert since(counted(1, 2), grown) == {"canary": Proportion(1, 2)}


def test_good_events_counted_a_moment_before_the_total_do_not_exceed_it() -> None:
    assert since(counted(0, 0), counted(3, 2)) == {"canary": Proportion(2, 2)}


def test_a_first_reading_compares_with_nothing() -> None:
    assert since({}, counted(3, 4)) is None
