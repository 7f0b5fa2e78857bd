"""What every step has in hand: the claim of its try, the frozen spec, and the parts it works on."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from model_release.environment import Environment, FleetPair
from model_release.errors import BytesDiffer, NotAsAsked, ReleaseError, RolledBack, Superseded
from model_release.identity import Release
from model_release.ledger.claim import Claim, take
from model_release.ledger.events import Events
from model_release.ledger.looks import Looks
from model_release.ledger.state import Running, State, StateFile
from model_release.repository.archive import Archive
from model_release.repository.serving import ServingPrefix
from model_release.repository.signatures import Signatures
from model_release.repository.store import KeyAbsent, ObjectStore
from model_release.spec import ModelSpec, digest_of
from model_release.traffic import connect
from model_release.traffic.router import Router

log = logging.getLogger(__name__)


class Sight(ABC):
    """What serves one model, by a spec of it that was frozen; to read it takes no claim."""

    environment: Environment
    store: ObjectStore

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's name."""

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """The frozen spec, which says where the model is served."""

    @property
    def pair(self) -> FleetPair:
        """The two fleets and the bench that serve the model."""
        return self.environment.pair(self.spec.serving.fleet_pair)

    @cached_property
    def archive(self) -> Archive:
        """The model's archive."""
        return Archive(self.store, self.model)

    @cached_property
    def signatures(self) -> Signatures:
        """Who signed the model's versions; what it read once it remembers, so a step's own."""
        return Signatures(self.store, self.model, self.environment.signing)

    @cached_property
    def router(self) -> Router:
        """The router that clients speak to."""
        return connect(self.environment)

    def prefix(self, fleet: str) -> ServingPrefix:
        """Return the model's place in a fleet's serving prefix."""
        return ServingPrefix(self.store, self.spec.serving.fleet_pair, fleet, self.model)


class Seen(Sight):
    """A model as somebody without its claim sees it."""

    def __init__(self, spec: ModelSpec, environment: Environment, store: ObjectStore) -> None:
        self._spec = spec
        self.environment = environment
        self.store = store

    @property
    def model(self) -> str:
        """The name that the spec gives it."""
        return self._spec.name

    @property
    def spec(self) -> ModelSpec:
        """The spec it was seen with."""
        return self._spec


@dataclass(frozen=True)
class Step(Sight):
    """One try of one step of a release."""

    release: Release
    environment: Environment
    store: ObjectStore
    claim: Claim
    spec_digest: str | None = None
    """Of the frozen spec to go by; None is that of this very release."""
    fence: Callable[[], None] | None = None
    """Raises when something that the step needs besides the claim is lost."""

    @property
    def model(self) -> str:
        """The model that is released."""
        return self.release.model

    @cached_property
    def spec(self) -> ModelSpec:
        """The spec as plan froze it: an edit of the file while a release runs changes nothing of it."""
        return read_frozen_spec(self.store, self.model, self.spec_digest or self.running.spec_digest)

    @property
    def running(self) -> Running:
        """The ledger's record of this release. Raises Superseded when it is another's."""
        state = self.claim.check()
        if state.release is None or state.release.holder != self.release.holder:
            holder = state.release.holder if state.release else None
            raise Superseded(self.model, self.claim.epoch, state.epoch, holder)
        return state.release

    @cached_property
    def looks(self) -> Looks:
        """The looks of this try of the release."""
        return Looks(self.store, self.model, self.release.version, self.release.holder)

    def check(self) -> None:
        """Raise Superseded when a newer epoch exists, and what the fence raises; called just before each write."""
        self.claim.check()
        if self.fence is not None:
            self.fence()

    def update(self, **changes: Any) -> State:
        """Change top-level fields of the state."""
        return self.claim.change(lambda state: state.model_copy(update=changes))

    def update_running(self, **changes: Any) -> State:
        """Change the record of this release."""

        def changed(state: State) -> State:
            running = state.release.model_copy(update=changes) if state.release else None
            return state.model_copy(update={"release": running})

        return self.claim.change(changed)

    def event(self, what: str, **facts: Any) -> None:
        """Append an event to the ledger. Raises Superseded when a newer epoch exists."""
        self.check()
        record(self.store, self.release, self.claim.epoch, what, facts)


def record(store: ObjectStore, release: Release, epoch: int, what: str, facts: dict[str, Any]) -> None:
    """Append an event of a release to the ledger."""
    whose = {"run": release.holder, "version": release.version, "kind": str(release.kind), "by": release.by}
    Events(store, release.model).append(epoch, what, store.now(), {**whose, **facts})


@contextmanager
def begin(
    release: Release,
    environment: Environment,
    phase: str,
    *,
    begins: bool = False,
    ends: bool = False,
    stands_in: bool = False,
    demand: Callable[[State], None] | None = None,
) -> Iterator[Step]:
    """
    Take the claim for one try of a step, as `ledger.claim.take` does, and keep it while the step runs.

    An error that ends the step is written into the ledger's record of the release, so that finish can say it.
    """
    store = ObjectStore(environment.s3)
    file = StateFile(store, release.model)
    lease_s = environment.lease_s
    with take(
        file, store, release, phase, lease_s, begins=begins, ends=ends, stands_in=stands_in, demand=demand
    ) as claim:
        step = Step(release, environment, store, claim)
        try:
            yield step
        except (Superseded, RolledBack, NotAsAsked):
            raise
        except Exception as error:
            _note_failure(step, phase, error)
            raise


def _note_failure(step: Step, phase: str, error: Exception) -> None:
    """Write the failure down if the ledger can be reached; the error itself is raised in any case."""
    reason = f"{phase}: {error}"

    def failed(state: State) -> State:
        running = state.release
        if running is None or running.holder != step.release.holder:
            return state
        return state.model_copy(update={"release": running.model_copy(update={"failure": running.failure or reason})})

    try:
        step.claim.change(failed)
        step.event("failed", phase=phase, error=str(error))
    except ReleaseError as second:
        log.warning("the failure of %s was not written to the ledger: %s", phase, second)


def freeze_spec(store: ObjectStore, spec: ModelSpec, check: Callable[[], object]) -> str:
    """Write the spec under its digest into the ledger and return the digest."""
    key = f"ledger/{spec.name}/specs/{spec.digest}.json"
    if not store.exists(key):
        check()
        store.put(key, spec.model_dump_json(indent=1).encode())
    return spec.digest


def read_frozen_spec(store: ObjectStore, model: str, digest: str) -> ModelSpec:
    """Read a frozen spec. Raises BytesDiffer when it is not the one that was frozen."""
    key = f"ledger/{model}/specs/{digest}.json"
    try:
        values = json.loads(store.get(key)[0])
    except KeyAbsent:
        raise BytesDiffer(key, "nothing", digest) from None
    except ValueError:
        raise BytesDiffer(key, "no JSON", digest) from None
    if digest_of(values) != digest:
        raise BytesDiffer(key, digest_of(values), digest)
    return ModelSpec.model_validate(values)
