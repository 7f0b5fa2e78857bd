"""The scenes: what befalls a canary, and what may come of it."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from example_models import digits_data
from sandbox.traffic import http_body
from tests.sandbox.canary.live import Live
from tests.sandbox.releasing import Clients, Model

#: So many clients ask at once, so that one who waits for a hung canary does not keep the others waiting.
CLIENTS = 6
RATE_PER_S = 150.0
EVERY_EIGHTH = 8
#: A multiple of the two above, so that a user sends the same image always; every eighth a bright one.
USERS = [f"user {number}" for number in range(480)]
BRIGHT, TOO_BRIGHT = 100.0, {"fails_above": 2}
Fault = Callable[[Live], None]


@dataclass(frozen=True)
class Scene:
    """What befalls the canary at a stage, and what may come of it."""

    key: str
    what: str
    fault: Fault | None
    expected: tuple[str, ...]
    """Verdicts that are right; `none` while nothing is decided."""
    stage: int = 10
    traffic: bool = True
    sticky: bool = False
    longest_s: float = 100.0
    """How long the stage is looked at."""
    as_usual: Mapping[str, Any] = field(default_factory=dict)
    """What both arms suffer from the beginning on."""
    alpha_advance: float = 0.05
    """How often a canary that is just not good enough is let go on by chance."""
    slower_than: float = 1.5
    """The latency gate's: far above what two fleets on one small machine differ by, but where latency is the matter."""
    bright_users: bool = False
    """Whether every eighth user sends what `TOO_BRIGHT` fails."""
    instances: int = 1
    """Of the canary on each replica, so that whom one keeps busy does not keep others waiting."""


def scenes() -> list[Scene]:
    """Return every scene, in the order in which the page tells them."""
    bad, good = ("rollback",), ("advance",)
    either = ("advance", "rollback", "none")
    return [
        Scene("a", "healthy, through 10, 50 and 100 %", None, good, stage=100, longest_s=150),
        Scene("b", "3 % of its answers are errors", lambda live: live.suffer({"error_share": 0.03}), bad),
        Scene(
            "c",
            "twice stable's latency of 24 ms",
            lambda live: live.suffer(_takes(2), _takes(1)),
            bad,
            as_usual=_takes(1),
            slower_than=1.2,
        ),
        Scene("d1", "one of its two replicas is killed at 10 %", lambda live: live.kill(every=False), either),
        Scene("d2", "one of its two replicas is killed at 50 %", lambda live: live.kill(every=False), either, stage=50),
        Scene("d3", "all of its replicas are killed at 10 %", lambda live: live.kill(every=True), either),
        Scene("d4", "all of its replicas are killed at 50 %", lambda live: live.kill(every=True), either, stage=50),
        Scene("e", "the metrics source is down for 30 s", _metrics_down, good, longest_s=150),
        Scene("f", "no traffic", None, ("none",), traffic=False, longest_s=20),
        Scene(
            "g",
            "a third of its answers are wrong, as fast as ever",
            lambda live: live.suffer({"wrong_share": 0.33}),
            bad,
        ),
        Scene("h", "20 % errors and 30 ms more on both arms for 15 s", _shared, ("advance", "none")),
        Scene("i", "its model hangs, and its replicas stay READY", lambda live: live.suffer({"hang": True}), bad),
        Scene(
            "j",
            "sticky users: one of its own, whom both arms always fail, asks all the time",
            _one_of_its_own(TOO_BRIGHT, rate_per_s=10),
            ("advance", "none"),
            sticky=True,
            longest_s=40,
        ),
        Scene(
            "k",
            "sticky users: it always fails every eighth of its own",
            lambda live: live.suffer(TOO_BRIGHT),
            bad,
            sticky=True,
            bright_users=True,
        ),
        Scene(
            "l",
            "sticky users: one of its own, who needs 40 ms more of both arms and holds up nobody, asks all the time",
            _one_of_its_own({"delay_ms": 40, "slow_above": 2}, rate_per_s=6),
            ("advance", "none"),
            sticky=True,
            instances=3,
        ),
        Scene(
            "m",
            "sticky users: twice stable's latency of 24 ms",
            lambda live: live.suffer(_takes(2), _takes(1)),
            bad,
            sticky=True,
            as_usual=_takes(1),
            slower_than=1.2,
        ),
    ]


def clients_of(scene: Scene, model: Model) -> list[Clients]:
    count, rate_per_s = CLIENTS if scene.traffic else 0, RATE_PER_S / CLIENTS
    if not scene.sticky:
        return [Clients(model, rate_per_s=rate_per_s) for _ in range(count)]
    bodies = _users_bodies()[: None if scene.bright_users else -1]
    users = [USERS[place::count] for place in range(count)]
    return [Clients(model, bodies, users=own, rate_per_s=rate_per_s) for own in users]


def _takes(times: int) -> dict[str, float]:
    """
    A model that takes some 24 ms, or twice that: 20 ms of delay, and what the rest of the way adds.

    The digits' own 2 ms are less than the router's buckets tell apart when doubled.
    """
    return {"delay_ms": 24.0 * times - 4.0}


def _metrics_down(live: Live) -> None:
    live.relay.close()
    live.for_a_while(30, live.relay.open)


def _shared(live: Live) -> None:
    incident = {"error_share": 0.2, "delay_ms": 30}
    live.suffer(incident, incident)
    live.for_a_while(15, lambda: live.suffer({}))


def _one_of_its_own(suffers: Mapping[str, Any], rate_per_s: float) -> Fault:
    """Let one user of the canary send what is too bright, which both arms suffer from."""

    def fault(live: Live) -> None:
        live.suffer(suffers, suffers)
        image = digits_data.split().live.image[0][None]
        user = _user_of_the_canary(live, http_body({"image": image}))
        live.stack.enter_context(Clients(live.model, [_bright(image)], users=[user], rate_per_s=rate_per_s))

    return fault


def _user_of_the_canary(live: Live, body: bytes) -> str:
    address, path = live.model.environment.router.http, f"/v2/models/{live.model.name}/infer"

    def is_on_canary(user: str) -> bool:
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("POST", path, body, {"x-user": user})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.getheader("x-model-arm") == "canary"

    return next(user for user in (f"busy user {number}" for number in range(1000)) if is_on_canary(user))


def _bright(image: np.ndarray[Any, Any]) -> bytes:
    return http_body({"image": np.full_like(image, BRIGHT)})


def _users_bodies() -> list[bytes]:
    """What users send, the last of eight as bright as nobody's image is."""
    images = digits_data.split().live.image
    plain = [http_body({"image": images[number % len(images)][None]}) for number in range(EVERY_EIGHTH - 1)]
    return [*plain, _bright(images[:1])]
