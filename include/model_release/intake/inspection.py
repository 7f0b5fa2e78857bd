"""What a checkpoint's bytes are, told without loading any of them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import archives, pickles, safetensors_header

_ZIP = b"PK\x03\x04"
_STATE_DICT = "Save model.state_dict() as .safetensors, and name the factory that builds the module."
_WHAT = {
    archives.STATE_DICT: "a file of torch.save",
    archives.TORCHSCRIPT: "a TorchScript program",
    archives.EXPORTED_PROGRAM: "an exported program",
}


def look_into(uri: str, path: Path, form: str) -> None:
    """
    Refuse a file that is not what `form` says, or that would do more than hold tensors.

    Raises CheckpointUnreadable, CheckpointUnsafe.
    """
    with path.open("rb") as stream:
        zipped = stream.read(4) == _ZIP
    if zipped and not zipfile.is_zipfile(path):
        raise CheckpointUnreadable(uri, "it is damaged: an archive without its end, as of an upload that was cut off")
    if not zipped and zipfile.is_zipfile(path):
        raise CheckpointUnsafe(
            uri, "it begins as one kind of file and ends as another, so two readers would read two things", _STATE_DICT
        )
    if path.suffix == ".safetensors":
        if zipped:
            raise CheckpointUnreadable(uri, "it is named .safetensors, but is a file of torch.save")
        safetensors_header.check(uri, path)
        return
    if not zipped:
        if form != archives.STATE_DICT:
            raise CheckpointUnreadable(uri, f"it is no archive, as an {form} is")
        pickles.check_legacy(uri, path)
        return
    found = archives.check(uri, path)
    if found != form:
        code = "" if found == archives.STATE_DICT else ", which is code and not a state_dict"
        raise CheckpointUnreadable(uri, f"it is {_WHAT[found]}{code}; the spec says source.format: {form}")
