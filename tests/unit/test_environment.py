"""The environment: what it takes, and what it keeps to itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from model_release.environment import Environment
from model_release.errors import BadModelConfig
from model_release.spec_files import parse_section

FLEET = {"replicas": [{"name": "r-0", "http": "127.0.0.1:1", "grpc": "127.0.0.1:2", "metrics": "127.0.0.1:3"}]}
LEAST: dict[str, Any] = {
    "s3": {"bucket": "models"},
    "pairs": {"default": {"blue": FLEET, "green": FLEET, "bench": FLEET}},
    "router": {"directory": "/envoy", "admin": ["127.0.0.1:9"], "http": "127.0.0.1:8"},
}


def read(**changes: Any) -> Environment:
    return parse_section(Environment, yaml.safe_dump({**LEAST, **changes}), "environment.yaml")


@pytest.mark.parametrize("key", ["open-sesame", "Key=open-sesame", "key=", "=open-sesame", "key=open sesame", "k y=o"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(BadModelConfig, match=r"triton_key.*name=value") as refused:
        read(triton_key=key)
    assert "sesame" not in str(refused.value)


def test_the_key_is_not_shown() -> None:
    environment = read(triton_key="x-release-key=open=sesame")
    assert environment.triton_key is not None
    assert environment.triton_key.get_secret_value() == "x-release-key=open=sesame"
    assert "sesame" not in repr(environment) + environment.model_dump_json()


def test_several_envoys_name_where_each_ones_log_of_affected_users_is_seen() -> None:
    router = {**LEAST["router"], "user_log": {"path": "/logs/users"}}
    assert [str(file) for file in read(router=router).router.user_log.files] == ["/logs/users"]
    several = {**router, "admin": ["127.0.0.1:9", "127.0.0.1:10"]}
    with pytest.raises(BadModelConfig, match=r"user_log.read has to name where the logs of all 2 Envoys"):
        read(router=several)
    several["user_log"] = {"path": "/logs/users", "read": ["/seen/one", "/seen/two"]}
    assert len(read(router=several).router.user_log.files) == 2
