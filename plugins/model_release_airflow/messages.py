"""
Messages over Apprise, by Airflow's Connections.

The provider's own notifier says nothing when a service refuses a message; here a refused one stays in the outbox.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from model_release.environment import Environment
from model_release.errors import BadModelConfig

if TYPE_CHECKING:
    from model_release.messages.channel import Channels


def channels_of(environment: Environment) -> Channels:
    """Return the Apprise URLs of a Connection, by its id; one that Airflow does not have may be the environment's."""
    from model_release.messages.channel import of_environment

    others = of_environment(environment)

    def urls(connection: str) -> Sequence[str] | None:
        try:
            return urls_of(BaseHook.get_connection(connection))
        except AirflowNotFoundException:
            return others(connection)

    return urls


def urls_of(connection: Connection) -> list[str]:
    """Read the URLs of an Apprise Connection: `config` of its extra, a path or several. Raises BadModelConfig."""
    where = f"the Connection {connection.conn_id!r}"
    config = connection.extra_dejson.get("config")
    try:
        config = json.loads(config) if isinstance(config, str) else config
        return [str(each["path"]) for each in (config if isinstance(config, list) else [config])]
    except (ValueError, TypeError, KeyError):
        problem = 'its extra is not {"config": {"path": "..."}}, nor a list of such, as an Apprise Connection has it'
        raise BadModelConfig(where, [problem]) from None
