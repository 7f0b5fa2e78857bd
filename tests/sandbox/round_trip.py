"""Whether a config comes back from a server as it was asked for, told by our own comparison and by one beside it."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from model_release.triton import config as configs
from model_release.triton.compare import differences


def unlike(asked: Any, served: Any) -> list[str]:
    """Return what of a config did not come back: by the release's own comparison, field by field, and its digest."""
    digest = served.parameters["release_digest"].string_value
    return [
        *differences(asked, served),
        *_lost(_as_json(asked), _as_json(served)),
        *([] if digest == configs.release_digest(asked) else [f"release_digest: served {digest}"]),
    ]


def _as_json(config: Any) -> Any:
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def _lost(asked: Any, served: Any, path: str = "") -> list[str]:
    """Return what of one JSON is not in the other, told apart by nothing of the code under test."""
    if isinstance(asked, dict):
        return [one for key, value in asked.items() for one in _lost(value, (served or {}).get(key), f"{path}.{key}")]
    if isinstance(asked, list) and isinstance(served, list) and len(asked) == len(served):
        pairs = enumerate(zip(asked, served, strict=True))
        return [one for i, (mine, its) in pairs for one in _lost(mine, its, f"{path}[{i}]")]
    return [] if asked == served else [f"{path}: asked {asked!r}, served {served!r}"]
