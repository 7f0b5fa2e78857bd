"""How many replicas of a fleet load at once, so that the fleet goes on serving its other models meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model_release.environment import Environment, Fleet, Replica
from model_release.errors import ReplicaUnavailable
from model_release.spec import owner_of
from model_release.triton.replica import ReplicaClient


def load_batches(fleet: Fleet, model: str, environment: Environment) -> Iterator[list[Replica]]:
    """
    Yield the replicas in the fleet's order, at most `load_batch` at a time.

    A replica that loads may be slow, or unready by its own strict probe, so each other model that is READY somewhere in
    the fleet stays so on a replica outside the batch; a batch of one is never refused.
    """
    if fleet.load_batch == 1:
        yield from ([replica] for replica in fleet.replicas)
        return
    serving = {replica.name: _others_ready(replica, model, environment) for replica in fleet.replicas}
    yield from split(fleet.replicas, serving, fleet.load_batch)


def split(replicas: list[Replica], serving: Mapping[str, set[str]], most: int) -> Iterator[list[Replica]]:
    """Yield batches of at most `most`; `serving` has the other models that are READY on each replica, by its name."""
    everywhere: set[str] = set().union(*serving.values())
    waiting = list(replicas)
    while waiting:
        batch = [waiting.pop(0)]
        while waiting and len(batch) < most and _outside(replicas, [*batch, waiting[0]], serving) == everywhere:
            batch.append(waiting.pop(0))
        yield batch


def _outside(replicas: list[Replica], batch: list[Replica], serving: Mapping[str, set[str]]) -> set[str]:
    """Return the other models that are READY on a replica outside the batch."""
    return set().union(*(serving[replica.name] for replica in replicas if replica not in batch))


def _others_ready(replica: Replica, model: str, environment: Environment) -> set[str]:
    """Return the other models that are READY on a replica; none on one that does not answer."""
    try:
        with ReplicaClient(replica, environment) as client:
            return {
                entry.model for entry in client.index() if entry.state == "READY" and owner_of(entry.model) != model
            }
    except ReplicaUnavailable:
        return set()
