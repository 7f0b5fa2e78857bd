"""A person is asked before all of the traffic goes to a canary, on the real parts; who asked to be told is told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from model_release.environment import Channel
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks
from model_release.repository.store import ObjectStore
from model_release.spec.notify import Notify
from model_release.steps import decide
from model_release.steps.decide import APPROVAL, waiting_for
from model_release.traffic import connect
from tests.sandbox.releasing import FIRST, SECOND, Clients, Model, await_true


@pytest.mark.usefixtures("sealed")
def test_a_canary_waits_for_a_yes_with_its_share_and_is_looked_at_meanwhile(model: Model) -> None:
    got: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    channel = Channel(url=SecretStr(f"json://127.0.0.1:{server.server_port}/hook"))
    canary = model.spec.canary.model_copy(update={"stages": [50, 100], "approval": "before_full", "hold_s": 300})
    asked = [Notify(connection="oncall", on=["approval", "promoted"])]
    careful = Model(
        model.spec.model_copy(update={"canary": canary, "notify": asked}),
        model.environment.model_copy(update={"notify": {"oncall": channel}}),
    )
    store = ObjectStore(model.environment.s3)
    looks = Looks(store, model.name, SECOND, f"run-{SECOND}#0")

    def answers() -> None:
        await_true(lambda: waiting_for(model.state, store.now()) == APPROVAL, "a person is asked", 400)
        before = len(looked())
        await_true(lambda: len(looked()) > before + 1, "the looks go on", 60)
        route = connect(model.environment).read(model.name)
        shares.append(route.weights if route else {})
        decide.run(model.name, model.environment, "advance", by="grace", reason="the numbers are fine")

    def looked() -> list[Any]:
        kept, _ = looks.read(50)
        return kept.looks if kept else []

    shares: list[dict[str, int]] = []
    person = threading.Thread(target=answers, daemon=True)
    try:
        with Clients(model) as clients:
            model.release(model.build(FIRST))
            before = clients.failed()  # of requests before there was anything to answer them
            person.start()
            careful.release(careful.build(SECOND))
        person.join()
    finally:
        server.shutdown()

    assert shares == [{"blue": 50, "green": 50}]
    assert clients.failed() == before, clients.problems[-3:]
    assert model.state.stable
    assert model.state.stable.version == SECOND
    events = [event for event in Events(store, model.name).read() if event["version"] == SECOND]
    decided = next(event for event in events if event["what"] == "decided")
    assert (decided["by"], decided["verb"], decided["reason"]) == ("grace", "advance", "the numbers are fine")
    shifted = [event["stage"] for event in events if event["what"] == "shifted" and event["epoch"] > decided["epoch"]]
    assert shifted == [100]
    told = [body["message"] for body in got if str(SECOND) in body["title"] + body["message"]]
    assert [message.rpartition("-")[2] for message in told] == ["approval asked", "promoted"]
    [page] = [
        entry.key for entry in store.objects(f"ledger/{model.name}/reports/{SECOND}/") if entry.key.endswith("html")
    ]
    assert b"grace on the approval: yes. the numbers are fine" in store.get(page)[0].lower()
