"""Where a message goes: the Apprise URLs of a connection. https://github.com/caronc/apprise/wiki lists the services."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from model_release.environment import Environment
from model_release.errors import BadModelConfig, MessageNotSent
from model_release.messages.message import Message

Channels = Callable[[str], Sequence[str] | None]
"""Returns the URLs of a connection by its name, or None where it is not known."""


def of_environment(environment: Environment) -> Channels:
    """
    Return the connections of an environment's `notify`.

    They raise BadModelConfig when what a connection refers to is not there.
    """

    def urls(connection: str) -> Sequence[str] | None:
        channel = environment.notify.get(connection)
        if channel is None:
            return None
        try:
            return channel.urls()
        except OSError as error:
            raise BadModelConfig("the environment", [f"notify.{connection}: {error}"]) from None

    return urls


def send(message: Message, connection: str, urls: Sequence[str]) -> None:
    """
    Send a message to every URL of a connection.

    Raises MessageNotSent unless each of them took it; Apprise's own words, which may hold a URL, stay out of the logs.
    """
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    if not urls or not all(sender.add(url) for url in urls):
        raise MessageNotSent(connection, message.id, "one of its URLs is none that Apprise knows")
    kind = apprise.NotifyType.SUCCESS if message.good else apprise.NotifyType.WARNING
    if not sender.notify(title=message.title, body=message.body, notify_type=kind):
        raise MessageNotSent(connection, message.id, "the service did not take it")
