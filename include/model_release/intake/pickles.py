"""
Pickles, read opcode by opcode: what one would import and call is known before anything is.

A pickle is a program for a small machine; `pickletools.genops` lists its instructions without running them.
"""

from __future__ import annotations

import io
import pickletools
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe

#: A pickle beside tensors holds names and shapes, about a hundred bytes a tensor.
MOST_BYTES = 16 * 2**20
#: torch's own format before 1.6 holds these pickles one after another, then the raw tensors: a magic number, the
#: format's version, the machine, the tensors' names and shapes, and the names of the storages.
_LEGACY_PICKLES = 5
_UNKNOWN = "something that it hides"
_INSTEAD = "Save model.state_dict() alone, best as .safetensors."
_STRINGS = frozenset(
    {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
)


def check(uri: str, name: str, body: bytes) -> None:
    """Refuse a pickle that imports more than tensors need. Raises CheckpointUnreadable, CheckpointUnsafe."""
    try:
        _refuse(uri, name, list(_imports(io.BytesIO(body))))
    except ValueError as error:
        raise CheckpointUnreadable(uri, f"its {name} is damaged or no pickle ({error})") from None


def check_legacy(uri: str, path: Path) -> None:
    """Check a file that torch.save wrote before it wrote archives. Raises CheckpointUnreadable, CheckpointUnsafe."""
    with path.open("rb") as stream:
        # A length in the file may be any number, so what is read at once is bounded by what is there.
        head = io.BytesIO(stream.read(MOST_BYTES))
    for _ in range(_LEGACY_PICKLES):
        try:
            _refuse(uri, "pickle", list(_imports(head)))
        except ValueError as error:
            why = f"it is damaged or no file of torch.save ({error})"
            if head.tell() >= MOST_BYTES:
                why = f"its pickles are more than {MOST_BYTES} bytes"
            raise CheckpointUnreadable(uri, why) from None


def _refuse(uri: str, name: str, imports: list[str]) -> None:
    foreign = [each for each in dict.fromkeys(imports) if not _is_known(each)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise CheckpointUnsafe(uri, f"its {name} is a pickle that would run {shown}", _INSTEAD)


def _is_known(name: str) -> bool:
    """Say whether torch's own weights_only reader builds tensors and plain containers of it."""
    from torch._weights_only_unpickler import _get_allowed_globals

    return name in _get_allowed_globals()


def _imports(stream: IO[bytes]) -> Iterator[str]:
    """
    Yield 'module.name' of all that a pickle would import.

    Raises ValueError where the bytes are no pickle. A name that is put together while it runs is reported as hidden.
    """
    strings: deque[str | None] = deque(maxlen=2)
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
            strings.append(None)
        elif opcode.name == "STACK_GLOBAL":
            known = tuple(strings) if len(strings) == 2 and None not in strings else None
            yield ".".join(str(part) for part in known) if known else _UNKNOWN
            strings.append(None)
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            yield _UNKNOWN
        elif opcode.name in _STRINGS:
            strings.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else None
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument or 0)] = strings[-1] if strings else None
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            strings.append(memo.get(int(argument or 0)))
        elif opcode.name not in ("PROTO", "FRAME"):
            strings.append(None)
