"""Pickles that would do more than hold tensors are refused before they are loaded; nothing of them runs."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from pathlib import Path

import pytest
import torch

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import pickles
from tests.unit import toys
from tests.unit.intake.files import STATE, Payload, rewritten, take

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "protocol 4"])
def test_a_pickle_with_a_payload_is_named_and_never_runs(tmp_path: Path, how: str) -> None:
    file, mark = tmp_path / "a.pth", tmp_path / "executed"
    content = {**STATE, "evil": Payload(mark)}
    if how == "protocol 4":
        torch.save(content, file, pickle_protocol=4)
    elif how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointUnreadable, match=r"would run .*posix\.mkdir" if how != "pickle" else "would run"):
        take(file)
    assert not mark.exists()


def test_a_name_that_a_pickle_puts_together_is_refused_as_hidden(saved: Path, tmp_path: Path) -> None:
    # A STACK_GLOBAL whose module comes out of a tuple: no reader can tell it without running the pickle.
    hidden = b"\x80\x04\x8c\x05posix\x85\x8c\x05mkdir\x93."
    file = rewritten(saved, lambda name, body: hidden if name == "data.pkl" else body, tmp_path / "a.pt")
    with pytest.raises(CheckpointUnsafe, match="would run something that it hides"):
        take(file)


def test_a_pickled_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(toys.linear(), tmp_path / "a.pt")
    with pytest.raises(CheckpointUnsafe, match=r"would run torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict"):
        take(tmp_path / "a.pt")


def test_the_last_pickle_of_an_old_file_is_looked_into_too(tmp_path: Path) -> None:
    file, mark = tmp_path / "a.pt", tmp_path / "executed"
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    body = io.BytesIO(file.read_bytes())
    for _ in range(4):
        list(pickletools.genops(body))
    at = body.tell()
    file.write_bytes(body.getvalue()[:at] + pickle.dumps(Payload(mark)) + body.getvalue()[at:])
    with pytest.raises(CheckpointUnsafe, match=r"would run posix\.mkdir"):
        take(file)
    assert not mark.exists()


@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e"])
def test_a_pickle_that_asks_for_more_memory_than_there_is_is_damaged(tmp_path: Path, opcode: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x04" + opcode + struct.pack("<Q", 2**62) + b"x")
    with pytest.raises(CheckpointUnreadable, match="only 1 remain"):
        take(tmp_path / "a.pt")


def test_no_more_of_an_old_file_is_read_than_a_pickle_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert take(tmp_path / "a.pt") is not None
    monkeypatch.setattr(pickles, "MOST_BYTES", 100)
    (tmp_path / "fetched" / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointUnreadable, match="its pickles are more than 100 bytes"):
        take(tmp_path / "a.pt")
