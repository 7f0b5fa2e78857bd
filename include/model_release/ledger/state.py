"""
state.json: what serves, what is under test, and who may change it. Changed by compare-and-swap alone.

Equal bytes have an equal ETag, so every body carries a nonce and a rising revision. A PUT whose answer was lost and
that is retried fails its own condition: the recent nonces that are read back tell that it won.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from model_release.errors import BytesDiffer, StoreUnavailable
from model_release.identity import Kind, Mode
from model_release.repository.store import ConditionFailed, KeyAbsent, ObjectStore
from model_release.traffic.router import SlowBound, of_both_arms

_TRIES = 30
_NONCES = 64


_Bound = Annotated[SlowBound, BeforeValidator(of_both_arms)]


class Part(BaseModel):
    """A part of the state; unknown keys of a newer writer are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Placement(Part):
    """A version on a fleet; `digest` is the release_digest that every replica echoes."""

    fleet: str
    version: int
    digest: str


class Weights(Part):
    """Shares of the traffic by fleet, in percent."""

    blue: int = 0
    green: int = 0


class WeightRecord(Part):
    """What the route was meant to become, written before it is touched, and what was confirmed after."""

    intent: Weights = Weights()
    confirmed: Weights | None = None
    epoch: int = 0


class ClaimRecord(Part):
    """The right to change the model's serving: one run's, until it expires by the store's clock."""

    run_id: str
    clear_number: int
    kind: Kind
    mode: Mode = Mode.NORMAL
    version: int
    phase: str
    expires_at: datetime
    held_until: datetime | None = None

    @property
    def holder(self) -> str:
        """The run and its clear number."""
        return f"{self.run_id}#{self.clear_number}"


class Promotion(Part):
    """A version that took all the traffic. `decision` orders decisions: a build's version, a restore's moment."""

    version: int
    digest: str
    kind: Kind
    decision: int
    at: datetime
    run_id: str


class Rejection(Part):
    """A version that was rolled back."""

    version: int
    reason: str
    at: datetime
    run_id: str


class Begun(Part):
    """A build that was planned, and when."""

    version: int
    run_id: str
    at: datetime


class Decision(Part):
    """What a person decided of a release that was held, or that waited for an approval."""

    verb: Literal["advance", "roll_back", "extend"]
    by: str
    reason: str
    at: datetime


class Running(Part):
    """The release that holds, or last held, the claim."""

    run_id: str
    clear_number: int
    version: int
    kind: Kind
    spec_digest: str
    checkpoint: str
    reason: str = ""
    by: str = ""
    fleet: str
    first_release: bool
    stages: list[int]
    started_at: datetime
    epoch: int = 0
    """Of its plan: its events begin there; 0 in a ledger of before."""
    deployed: bool = False
    verdicts: dict[str, dict[str, Any]] = {}
    approval: Literal["none", "before_canary", "before_full"] = "none"
    decisions: dict[str, Decision] = {}
    """By the stage that was held, or `approval`."""
    extended_s: dict[str, float] = {}
    """How much longer than its `hold_s` a person lets each of them wait."""
    outcome: Literal["running", "promoted", "rolled_back", "undone", "stale", "failed"] = "running"
    """`undone`: a dry run that came to its end and was taken away again; `stale`: nothing was left to be released."""
    failure: str = ""
    mode: Mode = Mode.NORMAL
    benchmark_due: bool = False
    """Whether no fleet may get the version before its benchmark is sealed."""
    standby_before: Placement | None = None
    """What was warm when the release began; a dry run puts it back."""
    slow_ms: list[_Bound] = []
    """Beyond which bounds a request is slow for its user, while arms are sticky; none: latency is judged by request."""
    often_ms: _Bound | None = None
    """A bound below them, beyond which so many are that only some are told of."""

    @property
    def user_bounds_ms(self) -> tuple[SlowBound, ...]:
        """All of these bounds, rising."""
        return (*([] if self.often_ms is None else [self.often_ms]), *self.slow_ms)

    @property
    def holder(self) -> str:
        """The run and its clear number."""
        return f"{self.run_id}#{self.clear_number}"

    @property
    def judged_alone(self) -> bool:
        """Whether the objectives judge the canary: there is no stable to compare with, or it is what is bad."""
        return self.first_release or self.mode is Mode.EMERGENCY


class State(Part):
    """All of state.json."""

    schema_version: Literal[1] = 1
    model: str
    revision: int = 0
    recent_nonces: list[str] = []
    epoch: int = 0
    claim: ClaimRecord | None = None
    stable: Placement | None = None
    canary: Placement | None = None
    standby: Placement | None = None
    weights: WeightRecord = WeightRecord()
    promotions: list[Promotion] = []
    rejected: list[Rejection] = []
    superseded: list[str] = []
    builds: list[Begun] = []
    """The newest builds that began, for a limit on them."""
    pruned: list[int] = []
    """Versions that were decided to go, before the first of their files went; none is ever released again."""
    release: Running | None = None

    def rejection_of(self, version: int) -> Rejection | None:
        """Return why a version is rejected, or None."""
        return next((entry for entry in reversed(self.rejected) if entry.version == version), None)

    @property
    def newest_decision(self) -> int:
        """The newest promoted or restored decision, 0 before the first."""
        return max((promotion.decision for promotion in self.promotions), default=0)


class StateFile:
    """state.json of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model
        self._key = f"ledger/{model}/state.json"

    def read(self) -> State:
        """Return the state; a model never released has an empty one. Raises BytesDiffer for a corrupt one."""
        return self._load()[0]

    def change(self, mutate: Callable[[State], State]) -> State:
        """
        Apply `mutate` to the newest state until no one else was faster, and return what was written.

        `mutate` may be called several times and may raise; then nothing is written.
        """
        nonce = uuid.uuid4().hex
        after = None
        for _ in range(_TRIES):
            before, etag = self._load()
            if after is not None and nonce in before.recent_nonces:
                # Not `before`: another may have written since, and its epoch is not the caller's.
                return after
            nonces = [*before.recent_nonces, nonce][-_NONCES:]
            after = mutate(before).model_copy(update={"revision": before.revision + 1, "recent_nonces": nonces})
            body = after.model_dump_json(indent=1).encode()
            try:
                if etag is None:
                    self._store.put(self._key, body, if_absent=True)
                else:
                    self._store.put(self._key, body, if_match=etag)
            except ConditionFailed:
                continue
            return after
        raise StoreUnavailable(self._key, f"other writers were faster {_TRIES} times")

    def _load(self) -> tuple[State, str | None]:
        try:
            body, etag = self._store.get(self._key)
        except KeyAbsent:
            return State(model=self._model), None
        try:
            return State.model_validate_json(body), etag
        except ValidationError as error:
            raise BytesDiffer(self._key, f"no valid state ({error.error_count()} problems)", "a state") from None
