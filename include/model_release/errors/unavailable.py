"""Outside systems that did not answer."""

from __future__ import annotations

from model_release.errors.base import Unavailable


class StoreUnavailable(Unavailable):
    """S3 did not answer, or refused the credentials."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"S3 did not answer for {where}: {why}. Check endpoint_url and credentials, then run again.")


class RouteAloneSetBack(Unavailable):
    """S3 did not answer, and the traffic is back on stable all the same."""

    def __init__(self, model: str, stable: int | None, canary: int | None, why: str) -> None:
        traffic = f"version {stable} has all the traffic" if stable else "requests are answered with 503"
        super().__init__(
            f"the route of {model} was set back: {traffic}, the canary {canary} has none. The ledger does not know, "
            f"and a release that still runs may give it traffic again: run the same command when S3 answers. {why}"
        )


class ReplicaUnavailable(Unavailable):
    """A Triton replica did not answer."""

    def __init__(self, replica: str, why: str) -> None:
        super().__init__(
            f"the Triton replica {replica} did not answer: {why}. Every replica of a fleet has to be up for a "
            "release; start it or take it out of the environment, then run again."
        )


class BenchBusy(Unavailable):
    """Other models' benchmarks had bench for all of the time that one waits for it."""

    def __init__(self, model: str, holder: str, waited_s: float) -> None:
        super().__init__(
            f"bench was not free for {model} for {waited_s:.0f} s: {holder} has it. Run the step again when that "
            "benchmark has ended, or give one of the models a fleet_pair, and so a bench, of its own."
        )


class RouterUnavailable(Unavailable):
    """The router's admin or its route file cannot be reached."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the router {where} did not answer: {why}.")


class MessageNotSent(Unavailable):
    """Somebody who asked to be told could not be."""

    def __init__(self, connection: str, event: str, why: str) -> None:
        super().__init__(
            f"the message of {event} was not sent by the connection {connection!r}: {why}. It is tried again for a day."
        )


class MetricsUnavailable(Unavailable):
    """The source of a look did not answer."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"no metrics from {where}: {why}.")
