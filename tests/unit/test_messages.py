"""Messages: told at least once, under one id, to who asked, through a real HTTP receiver, and never a secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_release.environment import S3, Channel, Environment
from model_release.identity import Kind
from model_release.ledger.events import Events
from model_release.ledger.state import Running, StateFile
from model_release.messages.message import message_of
from model_release.messages.outbox import Outbox
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.spec.notify import Notify
from model_release.steps.context import freeze_spec
from model_release.steps.notify import deliver
from tests.unit import toys
from tests.unit.fake_s3 import FakeS3

SECRET = "tok-3n"
VERSION = 20260102000000


class Receiver:
    """A service that messages are sent to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.status == 200:
                    receiver.got.append(body)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    service = Receiver()
    service.thread.start()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def s3() -> Iterator[S3]:
    with FakeS3().served() as place:
        yield place


@pytest.fixture
def environment(s3: S3, receiver: Receiver, tmp_path: Path) -> Environment:
    (tmp_path / "slack").write_text(f"{receiver.url}\n")
    fleet = {"replicas": [{"name": "none", "http": "127.0.0.1:1", "grpc": "127.0.0.1:1", "metrics": "127.0.0.1:1"}]}
    return Environment.model_validate(
        {
            "s3": s3,
            "pairs": {"default": {"blue": fleet, "green": fleet, "bench": fleet}},
            "router": {"directory": tmp_path, "admin": ["127.0.0.1:1"], "http": "127.0.0.1:1"},
            "notify": {"slack": {"url_file": tmp_path / "slack"}},
        }
    )


class Ledger:
    """A model's ledger with a release that asks for messages."""

    def __init__(self, store: ObjectStore, spec: ModelSpec) -> None:
        self.store, self.spec, self.events = store, spec, Events(store, spec.name)
        digest = freeze_spec(store, spec, lambda: None)
        running = Running(
            run_id="run-1", clear_number=0, version=VERSION, kind=Kind.BUILD, spec_digest=digest, checkpoint="s3://c",
            fleet="green", first_release=False, stages=[10, 100], started_at=store.now(),
        )  # fmt: skip
        StateFile(store, spec.name).change(lambda state: state.model_copy(update={"release": running}))
        self.epoch = 0

    def happened(self, what: str, *, ago_s: float = 0, **facts: Any) -> None:
        self.epoch += 1
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        self.events.append(self.epoch, what, at, {"run": "run-1#0", "version": VERSION, "by": "ada", **facts})


@pytest.fixture
def ledger(s3: S3) -> Ledger:
    asked = [Notify(connection="slack", on=["promoted", "rolled_back", "held", "guard", "failed"])]
    return Ledger(ObjectStore(s3), toys.spec(notify=asked))


def ids(receiver: Receiver) -> list[str]:
    return [body["message"].rpartition("Event ")[2] for body in receiver.got]


def test_each_event_is_told_once_to_who_asked_for_its_occasion(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    ledger.happened("planned", fleet="green", stages=[10])
    ledger.happened("held", stage=10, until="2026-01-02T04:00:00+00:00", reason="gathering: 3 of 60 requests")
    ledger.happened("superseded", reason="not asked for")
    ledger.happened("promoted", stable=VERSION, standby=None)

    for _ in range(3):
        assert deliver(ledger.spec.name, environment).problems == []

    name = ledger.spec.name
    assert ids(receiver) == [f"{name}/00000002-000000-held", f"{name}/00000004-000000-promoted"]
    assert receiver.got[0]["title"] == f"{name} {VERSION}: held: a person has to decide"
    assert f"model-release approve {name} --reason" in receiver.got[0]["message"]
    assert (receiver.got[0]["type"], receiver.got[1]["type"]) == ("warning", "success")


def test_what_a_service_refused_is_told_later_under_the_same_id(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    ledger.happened("promoted", stable=VERSION, standby=None)
    receiver.status = 500

    [problem] = deliver(ledger.spec.name, environment).problems
    assert "00000001-000000-promoted was not sent by the connection 'slack'" in problem
    assert SECRET not in problem

    receiver.status = 200
    assert len(deliver(ledger.spec.name, environment).sent) == 1
    assert len(ids(receiver)) == 1


def test_what_a_killed_process_was_about_to_tell_another_tells_when_its_time_is_over(
    ledger: Ledger, environment: Environment, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_release.steps import notify

    ledger.happened("promoted", stable=VERSION, standby=None)
    key = "00000001-000000-promoted slack"
    assert Outbox(ledger.store, ledger.spec.name).take(key, 600)
    assert deliver(ledger.spec.name, environment).sent == [], "the other may be telling it just now"

    monkeypatch.setattr(notify, "_TELLING_S", 0)
    Outbox(ledger.store, ledger.spec.name).settle(key, told=False)
    assert deliver(ledger.spec.name, environment).sent == [key]


def test_many_processes_at_once_tell_it_once(ledger: Ledger, environment: Environment, receiver: Receiver) -> None:
    ledger.happened("rolled_back", rolled_back=VERSION, reason="errors", by="guard")

    threads = [threading.Thread(target=deliver, args=(ledger.spec.name, environment)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids(receiver)) == 1


def test_a_connection_that_this_process_does_not_know_is_left_to_one_that_does(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    ledger.happened("promoted", stable=VERSION, standby=None)

    elsewhere = deliver(ledger.spec.name, environment, lambda _: None)
    assert (elsewhere.sent, elsewhere.problems) == ([], [])
    assert (
        len(deliver(ledger.spec.name, environment, lambda name: [receiver.url] if name == "slack" else None).sent) == 1
    )


def test_the_guard_leaves_who_wrote_an_event_the_time_to_tell_it(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    ledger.happened("promoted", stable=VERSION, standby=None, ago_s=70)
    ledger.happened("rolled_back", rolled_back=VERSION, reason="errors")

    assert len(deliver(ledger.spec.name, environment, older_than_s=60).sent) == 1
    assert ids(receiver) == [f"{ledger.spec.name}/00000001-000000-promoted"]


def test_old_history_is_no_news_and_is_not_walked_again(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    for _ in range(3):
        ledger.happened("promoted", stable=VERSION, standby=None, ago_s=3 * 86400)
    ledger.happened("held", stage=10, until="x", reason="r")

    deliver(ledger.spec.name, environment)

    record = Outbox(ledger.store, ledger.spec.name).read()
    assert ids(receiver) == [f"{ledger.spec.name}/00000004-000000-held"]
    assert record.floor == "00000003-000000-promoted"
    assert record.told == ["00000004-000000-held slack"]


def test_a_message_holds_no_secret_of_the_environment(
    ledger: Ledger, environment: Environment, receiver: Receiver
) -> None:
    ledger.happened("finished", green=False, reason="S3 did not answer", outcome="failed")
    deliver(ledger.spec.name, environment)

    sent = json.dumps(receiver.got)
    assert SECRET not in sent
    assert environment.s3.secret_access_key is not None
    assert environment.s3.secret_access_key.get_secret_value() not in sent
    assert SECRET not in repr(environment)


@pytest.mark.parametrize(
    ("event", "occasions"),
    [
        ({"what": "rolled_back", "by": "guard", "rolled_back": 1}, {"rolled_back", "guard"}),
        ({"what": "healed", "by": "guard", "reason": "r"}, {"guard"}),
        ({"what": "ended", "by": "guard", "reason": "r"}, {"guard"}),
        ({"what": "finished", "green": True, "stable": 1}, None),
        ({"what": "finished", "green": False, "outcome": "rolled_back"}, None),
        ({"what": "finished", "green": False, "outcome": "stale", "reason": "r"}, {"failed"}),
        ({"what": "judged", "stage": 10, "verdict": "advance", "action": "advance"}, None),
    ],
)
def test_an_event_speaks_on_its_occasions(event: dict[str, Any], occasions: set[str] | None) -> None:
    message = message_of({"id": "m/1", "at": "now", "run": "r#0", "version": 1, **event})

    assert (message.occasions if message else None) == occasions


def test_a_connection_refers_to_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK", "json://a\njson://b\n")

    assert Channel(url_variable="SLACK").urls() == ["json://a", "json://b"]
    with pytest.raises(ValidationError, match="give one of"):
        Channel.model_validate({"url": "json://a", "url_variable": "SLACK"})
    with pytest.raises(OSError, match="the variable NONE is not set"):
        Channel(url_variable="NONE").urls()
