"""
Convergence: the replicas that were proved are still the same processes, and a new or restarted one is proved too.

Triton (2.51) tells no start time. What it counts of a version starts at 0 with the process, or when the version is
loaded again, so a replica is taken for the one of the look before while no count went back and all of them together
did not double: a new process would have to have done in one interval what the old one did in all its life. Where that
cannot be told, and that is where requests are few, a recorded sample is cheap and is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from model_release.environment import Environment, Fleet, Replica
from model_release.errors import ProofFailed, ReleaseError
from model_release.triton.bundle import Bundle, bundle_of
from model_release.triton.compare import differences
from model_release.triton.replica import ReplicaClient, ReplicaError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

T = TypeVar("T")
Mark = dict[str, int]
"""What a replica has counted of a version, by name of the counter."""
Prove = Callable[[Fleet], Any]


def converge(
    fleet: Fleet,
    version: int,
    config: ModelConfig | Bundle,
    marks: Mapping[str, Mark],
    prover: Callable[[], Prove],
    environment: Environment,
) -> tuple[dict[str, Mark], list[str]]:
    """
    Look at every replica of a fleet, side by side, within `call_timeout_s`; one that is not known is proved.

    `marks` is what the look before returned. `prover` gives the proof by recorded samples and is called when one is
    needed. Returns the marks of the replicas that are proved, by name, and a sentence for each of the others.
    """
    half_s = environment.call_timeout_s / 2  # a replica that hangs leaves the other half to the proofs
    until = time.monotonic() + environment.call_timeout_s
    bundle = bundle_of(config)
    hasty = environment.model_copy(update={"call_timeout_s": half_s})

    def stand(replica: Replica) -> Mark:
        return _stand(replica, version, bundle, hasty)

    stands, problems = _side_by_side(stand, fleet.replicas, until - half_s)
    unknown = [
        replica
        for replica in fleet.replicas
        if replica.name in stands and not is_same(marks.get(replica.name), stands[replica.name])
    ]
    if unknown:
        prove = prover()
        proved, unproved = _side_by_side(lambda replica: prove(Fleet(replicas=[replica])), unknown, until)
        problems += unproved
        stands = {
            name: mark
            for name, mark in stands.items()
            if name in proved or name not in {replica.name for replica in unknown}
        }
    return stands, problems


def is_same(before: Mark | None, now: Mark) -> bool:
    """Whether counts show that a version has been in the same process since `before`; False where they cannot."""
    if before is None or any(now.get(name, 0) < count for name, count in before.items()):
        return False
    return 0 < sum(now.values()) < 2 * sum(before.values())


def _stand(replica: Replica, version: int, bundle: Bundle, environment: Environment) -> Mark:
    """Return what a replica counted of the version. Raises ProofFailed unless it serves it alone, as asked."""
    mark: Mark = {}
    with ReplicaClient(replica, environment) as client:
        for config in bundle.by_part.values():
            counted = _counted(client, version, config)
            mark |= counted if config is bundle.own else {f"{config.name}: {name}": n for name, n in counted.items()}
    return mark


def _counted(client: ReplicaClient, version: int, config: ModelConfig) -> Mark:
    model = config.name
    if not client.ready(model, version):
        raise ProofFailed(client.name, model, version, "it is not READY there")
    try:
        found = differences(config, client.config(model))
    except ReplicaError as error:
        raise ProofFailed(client.name, model, version, f"it does not tell its config: {error}") from None
    if found:
        raise ProofFailed(client.name, model, version, f"its config differs: {found[0]}")
    loaded = client.statistics(model)
    if [entry.version for entry in loaded] != [version]:
        also = sorted(entry.version for entry in loaded)
        raise ProofFailed(client.name, model, version, f"it counts requests of the versions {also}")
    executed = {f"executed {size}": count for size, count in loaded[0].batch_sizes.items()}
    return {"succeeded": loaded[0].succeeded, "failed": loaded[0].failed, **executed}


def _side_by_side(
    work: Callable[[Replica], T], replicas: Sequence[Replica], until: float
) -> tuple[dict[str, T], list[str]]:
    """Do something with each replica at once; returns what came of it by name, and what kept others from it."""
    pool = ThreadPoolExecutor(len(replicas), thread_name_prefix="replica")
    futures = {replica.name: pool.submit(work, replica) for replica in replicas}
    wait(futures.values(), max(0.0, until - time.monotonic()))
    pool.shutdown(wait=False, cancel_futures=True)
    done: dict[str, T] = {}
    problems: list[str] = []
    for name, future in futures.items():
        if not future.done():
            problems.append(f"the replica {name} is not proved yet: it takes longer than the look may")
            continue
        try:
            done[name] = future.result()
        except ReleaseError as error:
            problems.append(str(error))
    return done, problems
