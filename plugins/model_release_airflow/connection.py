"""
Airflow's Connection `model_release` as the library's Environment.

Its extra is `{"environment_file": "/path/on/every/worker.yaml"}`, or the environment itself as JSON, or nothing: then
the file that MODEL_RELEASE_ENVIRONMENT names on the worker.
"""

from __future__ import annotations

import json
from pathlib import Path

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from model_release.environment import Environment, load_environment
from model_release.errors import BadModelConfig
from model_release.spec_files import parse_section

CONNECTION_ID = "model_release"
_FILE_KEY = "environment_file"


def environment_of_task() -> Environment:
    """
    Return the environment, as a task in a worker asks for it.

    Raises BadModelConfig when there is no such Connection or its extra does not hold.
    """
    try:
        connection = BaseHook.get_connection(CONNECTION_ID)
    except AirflowNotFoundException:
        raise _missing() from None
    return environment_of(connection)


async def environment_of_trigger() -> Environment:
    """Return the environment, as a trigger's event loop asks for it; raises as `environment_of_task`."""
    try:
        connection = await BaseHook.aget_connection(CONNECTION_ID)
    except AirflowNotFoundException:
        raise _missing() from None
    return environment_of(connection)


def environment_of(connection: Connection) -> Environment:
    """Read the environment from a Connection's extra. Raises BadModelConfig."""
    extra = connection.extra_dejson
    where = f"the Connection {CONNECTION_ID!r}"
    if not extra:
        return load_environment()
    if _FILE_KEY not in extra:
        return parse_section(Environment, json.dumps(extra), where)
    if len(extra) > 1:
        others = ", ".join(sorted(set(extra) - {_FILE_KEY}))
        raise BadModelConfig(where, [f"its extra has {_FILE_KEY!r} and also {others}: give one or the other"])
    return load_environment(Path(extra[_FILE_KEY]))


def _missing() -> BadModelConfig:
    problem = "there is none; airflow_settings.yaml shows one"
    return BadModelConfig(f"the Connection {CONNECTION_ID!r}", [problem])
