"""Where messages go: the Apprise URLs of Airflow's Connections, and of the environment where Airflow has none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted_steps import ENVIRONMENT

from model_release.environment import Environment
from model_release.errors import BadModelConfig

SLACK, MAIL = "slack://a/b/c", "mailtos://user:secret@example.org"


def connected(monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    """Let Airflow have a Connection `oncall`, as its own UI writes one of the type Apprise."""
    extra = {} if config is None else {"config": config}
    monkeypatch.setenv("AIRFLOW_CONN_ONCALL", json.dumps({"conn_type": "apprise", "extra": extra}))


def urls(connection: str, notify: dict[str, Any] | None = None) -> Any:
    from model_release_airflow.messages import channels_of

    environment = Environment.model_validate({**ENVIRONMENT, "notify": notify or {}})
    found = channels_of(environment)(connection)
    return None if found is None else list(found)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"path": SLACK}, [SLACK]),
        ({"path": SLACK, "tag": "alerts"}, [SLACK]),
        ([{"path": SLACK}, {"path": MAIL}], [SLACK, MAIL]),
        (json.dumps({"path": SLACK}), [SLACK]),
        (json.dumps([{"path": SLACK}, {"path": MAIL}]), [SLACK, MAIL]),
    ],
)
def test_a_connection_gives_the_urls_that_its_extra_has(
    monkeypatch: pytest.MonkeyPatch, config: Any, found: list[str]
) -> None:
    connected(monkeypatch, config)
    assert urls("oncall") == found


@pytest.mark.parametrize("config", [None, {}, "slack://a/b/c", {"url": SLACK}, ["slack://a/b/c"], 7])
def test_a_connection_of_another_shape_is_refused_by_its_name_without_what_is_in_it(
    monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    connected(monkeypatch, config)
    with pytest.raises(BadModelConfig, match=r"the Connection 'oncall'.*as an Apprise Connection has it") as raised:
        urls("oncall")
    assert "slack" not in str(raised.value)


def test_a_connection_that_airflow_lacks_may_be_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert urls("elsewhere", {"elsewhere": {"url": MAIL}}) == [MAIL]
    assert urls("elsewhere") is None
    connected(monkeypatch, {"path": SLACK})
    assert urls("oncall", {"oncall": {"url": MAIL}}) == [SLACK], "Airflow's own comes first"
