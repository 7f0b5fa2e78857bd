"""
What a failed or hung load leaves on a replica, as its repository index tells it.

Triton's own rule for strict readiness (core, server.cc IsReady): a version that is not READY makes the server unready,
unless it was unloaded. After a failed load that stays so until that very version loads or the process ends, whatever is
unloaded or deleted; a load that hangs holds the model's lock, and every later load or unload of it hangs too. The index
lists only models whose folder lies in the repository: it has to be asked before the folder is deleted.
"""

from __future__ import annotations

from model_release.environment import Environment, Replica
from model_release.errors import ReplicaUnavailable
from model_release.triton.fleet import settled
from model_release.triton.replica import ReplicaClient

_SAID_MOST = 160


def poison_of(replica: Replica, model: str, environment: Environment, version: int | None = None) -> str | None:
    """
    Say what a load of the model, of that version of it, has left on a replica.

    None means that nothing did, or that it does not answer.

    A version that is still loading or unloading has `call_timeout_s` to come to an end.
    """
    with ReplicaClient(replica, environment) as client:
        try:
            entries = [
                entry
                for name in client.triton_models(model)
                for entry in settled(client, name, environment.call_timeout_s)
            ]
        except ReplicaUnavailable:
            return None
    for entry in entries:
        if entry.version is None or entry.state == "READY" or version not in {None, entry.version}:
            continue
        if entry.state != "UNAVAILABLE":
            return f"{entry.model} version {entry.version} stays {entry.state}"
        if entry.reason not in {"", "unloaded"}:
            return f"{entry.model} version {entry.version} failed to load: {entry.reason[:_SAID_MOST]}"
    return None
