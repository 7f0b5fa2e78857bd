"""Prometheus: raw counters by PromQL over its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from model_release.environment import PrometheusMetrics
from model_release.errors import MetricsUnavailable
from model_release.gates.sources import ArmOf, Counted
from model_release.spec import PromqlSource

_QUERY = "/api/v1/query"
# A name, and the matchers after it; a name before a bracket is a function, one inside `by (...)` a label.
_SELECTOR = re.compile(r"[a-zA-Z_:][\w:]*\s*\{[^}]*\}|[a-zA-Z_:][\w:]*(?!\s*[\w:({])")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_QUOTED = '"_"'
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


class PrometheusSource:
    """One Prometheus, or what speaks its query API (Thanos, Mimir, VictoriaMetrics)."""

    def __init__(self, metrics: PrometheusMetrics, timeout_s: float) -> None:
        self._metrics = metrics
        self._timeout_s = timeout_s

    def read(self, asked: Mapping[str, PromqlSource], arms: Mapping[str, ArmOf]) -> dict[str, dict[str, Counted]]:
        """Return raw counters by gate and arm, all at one instant of the server's clock. Raises MetricsUnavailable."""
        at = self._now()
        return {
            gate: {
                arm: Counted(
                    self._counter(source.promql_good, whose, at), self._counter(source.promql_total, whose, at)
                )
                for arm, whose in arms.items()
            }
            for gate, source in asked.items()
        }

    def _now(self) -> float:
        result = self._ask("time()", None)
        return float(result["result"][0])

    def _counter(self, promql: str, whose: ArmOf, at: float) -> dict[str, float]:
        """Return the series of a counter, none where nobody has raised it yet."""
        query = _filled(promql, whose)
        values = self._vector(query, at)
        if values:
            self._refuse_stale(query, at)
        return values

    def _vector(self, query: str, at: float) -> dict[str, float]:
        data = self._ask(query, at)
        if data["resultType"] == "scalar":
            return {"": float(data["result"][1])}
        if data["resultType"] != "vector":
            raise MetricsUnavailable(self._metrics.url, f"{query} gives a {data['resultType']}, not one value a series")
        series = ((_labels(each["metric"]), float(each["value"][1])) for each in data["result"])
        return {labels: value for labels, value in series if value == value}

    def _refuse_stale(self, query: str, at: float) -> None:
        """
        Raise MetricsUnavailable when the newest sample behind a query is too old.

        Prometheus answers with a series' last value for five minutes after the last scrape: a value that stands still
        because nobody reads it any more looks like an arm without events.
        """
        newest = [
            value
            for selector in _selectors(query)
            for value in self._vector(f"max(timestamp({selector}))", at).values()
        ]
        if newest and at - max(newest) > self._metrics.stale_after_s:
            age_s = at - max(newest)
            raise MetricsUnavailable(self._metrics.url, f"the newest sample of {query} is {age_s:.0f} s old")

    def _ask(self, query: str, at: float | None) -> dict[str, Any]:
        """Return the data of an instant query. Raises MetricsUnavailable."""
        form = {"query": query, **({} if at is None else {"time": f"{at:.3f}"})}
        request = urllib.request.Request(  # noqa: S310 - the environment's own address, http or https
            self._metrics.url.rstrip("/") + _QUERY, urllib.parse.urlencode(form).encode()
        )
        if self._metrics.bearer_token is not None:
            request.add_header("Authorization", f"Bearer {self._metrics.bearer_token.get_secret_value()}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            raise MetricsUnavailable(self._metrics.url, f"{error.code} to {query}: {_why(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MetricsUnavailable(self._metrics.url, f"{type(error).__name__}: {error}") from None
        if not isinstance(content, dict) or content.get("status") != "success":
            raise MetricsUnavailable(self._metrics.url, f"it said {str(content)[:200]} to {query}")
        data: dict[str, Any] = content["data"]
        return data


def _filled(promql: str, whose: ArmOf) -> str:
    for name, value in (("$model", whose.model), ("$version", str(whose.version)), ("$fleet", whose.fleet)):
        promql = promql.replace(name, value)
    return promql


def _selectors(query: str) -> list[str]:
    """Return the instant selectors of a query, as far as they can be told without parsing all of PromQL."""
    strings = _STRINGS.findall(query)
    bare = _GROUPING.sub(" ", _STRINGS.sub(_QUOTED, query))
    found = []
    for text in _SELECTOR.findall(bare):
        filled = re.sub(re.escape(_QUOTED), lambda _: strings.pop(0), text)
        if text.strip().lower() not in _WORDS:
            found.append(filled)
    return found


def _labels(metric: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(metric.items()))


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error).get("error", ""))[:200]
    except (ValueError, OSError, AttributeError):
        return error.reason
