"""
Every error of the library, as classes that take facts and build the sentence.

    ReleaseError
    ├── BadInput                 the user has to change something
    │   ├── AskedWrongly         what was asked of a release does not fit together
    │   ├── BadModelConfig       a model config or environment file does not hold
    │   ├── SigningKeyUnusable   a key of the environment's signing does not open
    │   ├── SignerMissing
    │   ├── StoreLacksVerb       an S3 without conditional writes, or another verb that is relied on
    │   ├── RouterLacks          the spec needs what the environment's router cannot do
    │   ├── ControlRefused       the environment's triton_key does not open a replica's control API
    │   ├── UnknownModel
    │   ├── ReportMissing
    │   ├── CheckpointMissing
    │   ├── CheckpointUnreadable
    │   │   └── CheckpointUnsafe     its bytes would run code, or escape their folder
    │   ├── TensorsDoNotMatch
    │   ├── FactoryFailed
    │   ├── ModelRefusesInputs
    │   ├── ProviderMissing      an execution provider that the spec names is not on this machine
    │   ├── TensorRTMissing      an engine is to be built on a worker without TensorRT, or without a GPU
    │   ├── SamplesUnusable
    │   └── LookUnusable
    ├── Unavailable              an outside system did not answer; a retry may help
    │   ├── StoreUnavailable
    │   ├── RouteAloneSetBack    the traffic is back on stable, and the ledger does not know
    │   ├── ReplicaUnavailable
    │   ├── BenchBusy            other models' benchmarks have it
    │   ├── RouterUnavailable
    │   ├── MessageNotSent
    │   └── MetricsUnavailable
    ├── Refused                  a rule of the pipeline forbids it
    │   ├── ClaimHeld
    │   ├── Superseded
    │   ├── BenchLost            a benchmark that gave no sign of life for too long
    │   ├── VersionTaken
    │   ├── SignatureMissing     the environment requires one
    │   ├── VersionNotFound
    │   │   └── VersionPruned    it was sealed once, and retention took it
    │   ├── CanaryLive
    │   ├── VersionRejected
    │   ├── StaleBuild
    │   ├── OrderStale           another version was promoted since it was asked for
    │   ├── NotBenchmarked
    │   ├── AlreadyStable
    │   ├── ContractBroken
    │   ├── NothingToRollBackTo
    │   ├── NothingToDecide      no release waits for a person
    │   ├── ChangeFrozen         a change policy forbids it now
    │   ├── TooManyReleases
    │   ├── CanaryQueued         another model's canary is on the fleet pair
    │   ├── NoAdvanceVerdict
    │   └── RouteTakenOver
    └── Failed                   a check did not pass
        ├── ExportFailed
        ├── EngineFailed         TensorRT builds none of the ONNX file
        ├── ParityFailed
        │   ├── OnnxUnusable
        │   │   └── TorchScriptUnusable  a model.pt that the pytorch backend would not take
        │   ├── OutputMisdeclared    an output is of another shape or dtype than the spec says
        │   ├── NotFinite            NaN or an infinity on one side alone
        │   │   └── Overflow         float16 is too narrow for an inner value
        │   ├── BatchDependent
        │   └── NotDeterministic
        ├── BytesDiffer
        ├── DigestDiffers        a version elsewhere is another than is asked for
        ├── DoesNotFit           a replica has not the memory for the version beside what it serves
        ├── SignatureInvalid     nobody who is believed signed what lies there
        ├── LoadFailed
        ├── RecycleFailed        a replica that is unwell was not started anew, or did not come back
        ├── ProofFailed
        ├── AccuracyTooLow
        │   └── AccuracyNotProven    not shown to be as good as another version
        ├── StableUnusable       stable's ONNX file does not answer, so nothing can be compared with it
        ├── EmbeddingMoved
        ├── ProcessDied          the child process that runs a checkpoint's code ended without an answer
        ├── BenchDied            its server ended, or hangs, since it was given the version
        ├── ServedParityFailed   Triton's own answers are not the recorded ones
        ├── BenchmarkFailed
        ├── ObjectiveNotMet
        ├── RouteNotConfirmed
        ├── RouteUnreadable
        ├── NotApproved          a person said no, or nobody anything
        ├── RolledBack
        └── NotAsAsked

A message says what happened, where, what was got, what is allowed, and what to do next.
"""

from __future__ import annotations

from model_release.errors.bad_input import (
    AskedWrongly,
    BadModelConfig,
    CheckpointMissing,
    CheckpointUnreadable,
    CheckpointUnsafe,
    ControlRefused,
    FactoryFailed,
    LookUnusable,
    ModelRefusesInputs,
    PartFails,
    ProviderMissing,
    ReportMissing,
    RouterLacks,
    SamplesUnusable,
    SignerMissing,
    SigningKeyUnusable,
    StoreLacksVerb,
    TensorRTMissing,
    TensorsDoNotMatch,
    UnknownModel,
)
from model_release.errors.base import (
    BadInput,
    Failed,
    Refused,
    ReleaseError,
    Unavailable,
    did_you_mean,
)
from model_release.errors.failed import (
    BenchDied,
    BenchmarkFailed,
    BytesDiffer,
    DigestDiffers,
    DoesNotFit,
    LoadFailed,
    NotApproved,
    NotAsAsked,
    ObjectiveNotMet,
    ProofFailed,
    RecycleFailed,
    RolledBack,
    RouteNotConfirmed,
    RouteUnreadable,
    ServedParityFailed,
    SignatureInvalid,
)
from model_release.errors.proof import (
    AccuracyNotProven,
    AccuracyTooLow,
    BatchDependent,
    EmbeddingMoved,
    EngineFailed,
    ExportFailed,
    NotDeterministic,
    NotFinite,
    OnnxUnusable,
    OutputMisdeclared,
    Overflow,
    ParityFailed,
    ProcessDied,
    StableUnusable,
    TorchScriptUnusable,
)
from model_release.errors.refused import (
    AlreadyStable,
    BenchLost,
    CanaryLive,
    CanaryQueued,
    ChangeFrozen,
    ClaimHeld,
    ContractBroken,
    NoAdvanceVerdict,
    NotBenchmarked,
    NothingToDecide,
    NothingToRollBackTo,
    OrderStale,
    RouteTakenOver,
    SignatureMissing,
    StaleBuild,
    Superseded,
    TooManyReleases,
    VersionNotFound,
    VersionPruned,
    VersionRejected,
    VersionTaken,
)
from model_release.errors.unavailable import (
    BenchBusy,
    MessageNotSent,
    MetricsUnavailable,
    ReplicaUnavailable,
    RouteAloneSetBack,
    RouterUnavailable,
    StoreUnavailable,
)

__all__ = [
    "AccuracyNotProven",
    "AccuracyTooLow",
    "AlreadyStable",
    "AskedWrongly",
    "BadInput",
    "BadModelConfig",
    "BatchDependent",
    "BenchBusy",
    "BenchDied",
    "BenchLost",
    "BenchmarkFailed",
    "BytesDiffer",
    "CanaryLive",
    "CanaryQueued",
    "ChangeFrozen",
    "CheckpointMissing",
    "CheckpointUnreadable",
    "CheckpointUnsafe",
    "ClaimHeld",
    "ContractBroken",
    "ControlRefused",
    "DigestDiffers",
    "DoesNotFit",
    "EmbeddingMoved",
    "EngineFailed",
    "ExportFailed",
    "FactoryFailed",
    "Failed",
    "LoadFailed",
    "LookUnusable",
    "MessageNotSent",
    "MetricsUnavailable",
    "ModelRefusesInputs",
    "NoAdvanceVerdict",
    "NotApproved",
    "NotAsAsked",
    "NotBenchmarked",
    "NotDeterministic",
    "NotFinite",
    "NothingToDecide",
    "NothingToRollBackTo",
    "ObjectiveNotMet",
    "OnnxUnusable",
    "OrderStale",
    "OutputMisdeclared",
    "Overflow",
    "ParityFailed",
    "PartFails",
    "ProcessDied",
    "ProofFailed",
    "ProviderMissing",
    "RecycleFailed",
    "Refused",
    "ReleaseError",
    "ReplicaUnavailable",
    "ReportMissing",
    "RolledBack",
    "RouteAloneSetBack",
    "RouteNotConfirmed",
    "RouteTakenOver",
    "RouteUnreadable",
    "RouterLacks",
    "RouterUnavailable",
    "SamplesUnusable",
    "ServedParityFailed",
    "SignatureInvalid",
    "SignatureMissing",
    "SignerMissing",
    "SigningKeyUnusable",
    "StableUnusable",
    "StaleBuild",
    "StoreLacksVerb",
    "StoreUnavailable",
    "Superseded",
    "TensorRTMissing",
    "TensorsDoNotMatch",
    "TooManyReleases",
    "TorchScriptUnusable",
    "Unavailable",
    "UnknownModel",
    "VersionNotFound",
    "VersionPruned",
    "VersionRejected",
    "VersionTaken",
    "did_you_mean",
    "revived",
]


def revived(name: str, message: str) -> ReleaseError:
    """Return the error of that class name with a sentence that was built before, in a report or in another process."""
    waiting = [ReleaseError]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            error = kind.__new__(kind)
            Exception.__init__(error, message)
            return error
        waiting += kind.__subclasses__()
    return ReleaseError(message)
