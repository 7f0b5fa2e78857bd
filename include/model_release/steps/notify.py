"""notify: tell people what happened, once it is in the ledger; whoever comes next tells what nobody has told yet."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from model_release.environment import Environment
from model_release.errors import BadModelConfig, MessageNotSent
from model_release.ledger.events import Events
from model_release.ledger.state import StateFile
from model_release.messages.channel import Channels, of_environment, send
from model_release.messages.message import SPEAKING, Message, message_of
from model_release.messages.outbox import Outbox
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.steps.context import read_frozen_spec

#: How long telling one message may take, and after which a message that nobody could send is given up.
_TELLING_S, _KEPT = 60.0, timedelta(days=1)
#: An event may still be written below newer ones by a process that was just superseded.
_LATE = timedelta(minutes=10)

log = logging.getLogger(__name__)


@dataclass
class Delivery:
    """The messages that were sent, by `<event> <connection>`, and what kept others from it."""

    sent: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def deliver(
    model: str, environment: Environment, channels: Channels | None = None, *, older_than_s: float = 0.0
) -> Delivery:
    """
    Send what the model's events have to say and was not sent yet, as the spec of its newest release says to whom.

    `channels` are the environment's by default; a connection that they do not know is left to others. Only events
    that are at least `older_than_s` old, so that who wrote them comes first. Raises StoreUnavailable.
    """
    store = ObjectStore(environment.s3)
    running = StateFile(store, model).read().release
    if running is None:
        return Delivery()
    spec = read_frozen_spec(store, model, running.spec_digest)
    if not spec.notify:
        return Delivery()
    return _Round(store, model, spec, channels or of_environment(environment)).run(timedelta(seconds=older_than_s))


def tell(model: str, environment: Environment, channels: Channels | None = None) -> None:
    """Deliver, and only log what went wrong: no step fails because a message was not sent."""
    try:
        for problem in deliver(model, environment, channels).problems:
            log.warning("%s", problem)
    except Exception as error:
        log.warning("no messages of %s were sent: %s", model, error)


class _Round:
    """One walk over the events that have something left to tell."""

    def __init__(self, store: ObjectStore, model: str, spec: ModelSpec, channels: Channels) -> None:
        self._events = Events(store, model)
        self._outbox = Outbox(store, model)
        self._spec = spec
        self._channels = channels
        self._now = store.now()
        self._done = Delivery()

    def run(self, at_least: timedelta) -> Delivery:
        record = self._outbox.read()
        told, floor, settled = set(record.told), record.floor, True
        for name in self._events.names(after=record.floor):
            if name.split("-", 2)[2] not in SPEAKING:
                floor = name if settled else floor
                continue
            event = self._events.one(name)
            age = max(timedelta(0), self._now - datetime.fromisoformat(event["at"]))  # a clock of whole seconds
            over = self._tell(name, message_of(event), told, age, at_least)
            settled = settled and over and age > _LATE
            floor = name if settled else floor
        if floor != record.floor and self._is_late(floor):
            self._outbox.raise_floor(floor)
        return self._done

    def _tell(self, name: str, message: Message | None, told: set[str], age: timedelta, at_least: timedelta) -> bool:
        """Tell one event to all who want to hear of it; returns whether nothing of it is left."""
        left = False
        for to in self._spec.notify:
            key = f"{name} {to.connection}"
            if message is None or not message.occasions & set(to.on) or key in told or age > _KEPT:
                continue
            left = left or age < at_least or not self._send(key, message, to.connection)
        return not left

    def _send(self, key: str, message: Message, connection: str) -> bool:
        try:
            urls = self._channels(connection)
            if urls is None or not self._outbox.take(key, _TELLING_S):
                return False
            sent = False
            try:
                send(message, connection, urls)
                sent = True
            finally:
                self._outbox.settle(key, told=sent)
        except (MessageNotSent, BadModelConfig) as error:
            self._done.problems.append(str(error))
            return False
        self._done.sent.append(key)
        return True

    def _is_late(self, name: str) -> bool:
        """Say whether an event is so old that none will be written below it any more."""
        return self._now - datetime.fromisoformat(self._events.one(name)["at"]) > _LATE
