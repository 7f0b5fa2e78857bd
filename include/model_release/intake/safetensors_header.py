"""The header of a safetensors file: JSON that says of each tensor its dtype, its shape, and where its bytes lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe

_LENGTH = struct.Struct("<Q")
_INSTEAD = "Write it anew with safetensors.torch.save_file."


def check(uri: str, path: Path) -> None:
    """
    Refuse a header that does not describe exactly the bytes after it, or names a tensor twice.

    safetensors itself checks length, dtypes, shapes, gaps and overlaps; of a name that comes twice it takes one, and
    another reader may take the other. No tensor is read. Raises CheckpointUnreadable, CheckpointUnsafe.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointUnreadable(uri, f"it is no whole safetensors file ({' '.join(str(error).split())})") from None
    with path.open("rb") as stream:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        twice: list[str] = []

        def gathered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, value in pairs:
                if name in found:
                    twice.append(name)
                found[name] = value
            return found

        json.loads(stream.read(length), object_pairs_hook=gathered)
    if twice:
        raise CheckpointUnsafe(
            uri, f"its header has {twice[0]!r} twice, so two readers would take two values", _INSTEAD
        )
