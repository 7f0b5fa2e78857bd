"""
What a store has to do, each verb tried once and seen both to work and to refuse.

A store that ignores a condition answers like one that honours it, until two writers meet: so a lost condition is tried
on purpose, in a prefix of the probe's own. What one probe cannot show is that two writes at the same instant are told
apart, and that a listing of more than one page is whole.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from botocore.exceptions import ClientError

from model_release.environment import S3
from model_release.errors import StoreLacksVerb, StoreUnavailable
from model_release.repository.store import ConditionFailed, KeyAbsent
from model_release.repository.verbs import VERBS, Room, Shortfall, Verb, status_of

#: How a store says that it does not know a verb; any other error may pass, and is no answer.
_UNKNOWN_STATUS = {405, 501}
_UNKNOWN_CODES = {"BadDigest", "InvalidArgument", "InvalidDigest", "InvalidRequest", "MalformedXML", "NotSupported"}

_passed: set[tuple[str | None, str, str]] = set()


def require_verbs(s3: S3) -> None:
    """Probe a store unless this process has seen it pass. Raises as `probe` does."""
    place = (s3.endpoint_url, s3.bucket, s3.prefix)
    if place not in _passed:
        probe(s3)
        _passed.add(place)


def probe(s3: S3) -> list[str]:
    """
    Try every verb in a prefix of its own, which is removed at the end, and return their names.

    Raises StoreLacksVerb for the first that the store has not, StoreUnavailable when it does not answer.
    """
    where = "/".join(filter(None, (f"s3://{s3.bucket}", s3.prefix))) + (
        f" at {s3.endpoint_url}" * bool(s3.endpoint_url)
    )
    with tempfile.TemporaryDirectory(prefix="model-release-probe-") as folder:
        room = Room(s3, Path(folder))
        try:
            for verb in VERBS:
                did = _shortfall(verb, room)
                if did is not None:
                    raise StoreLacksVerb(where, verb.name, did, verb.needed)
        finally:
            room.clear()
    return [verb.name for verb in VERBS]


def _shortfall(verb: Verb, room: Room) -> str | None:
    try:
        verb.try_in(room)
    except Shortfall as found:
        return str(found)
    except KeyAbsent:
        return "it does not know an object that was just written"
    except ConditionFailed:
        return "it refused a request that has no condition"
    except (KeyError, TypeError, ValueError) as error:
        return f"its answer has no usable {error}"
    except StoreUnavailable as error:
        if not _says_unknown(error):
            raise
        return f"it answered {error.__cause__}"
    return None


def _says_unknown(error: StoreUnavailable) -> bool:
    answer = error.__cause__
    if not isinstance(answer, ClientError):
        return False
    return status_of(error) in _UNKNOWN_STATUS or answer.response.get("Error", {}).get("Code") in _UNKNOWN_CODES
