"""A checkpoint: fetched and looked into first, opened only then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from model_release.environment import Environment
from model_release.errors import BadModelConfig, CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import factory, inspection, programs, state_dict
from model_release.repository.uris import fetch
from model_release.spec import ModelSpec, Source
from model_release.spec.source import PARTS

if TYPE_CHECKING:
    from torch import nn

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = {
    "state_dict": (".safetensors", ".pt", ".pth"),
    "exported_program": (".pt2",),
    "torchscript": (".pt", ".pth", ".ts"),
}


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint on disk, whose bytes were found to be what the spec says that they are."""

    uri: str
    path: Path
    sha256: str
    size_bytes: int


def require_pin(source: Source, checkpoint_uri: str) -> None:
    """Raise CheckpointUnsafe for a checkpoint that is code, unless it is allowed and its bytes are pinned."""
    if not source.is_code:
        return
    if not source.allow_code or source.sha256 is None:
        raise CheckpointUnsafe(
            checkpoint_uri,
            f"an {source.format} is a program, and the spec does not allow it by allow_code and sha256",
            "Release a state_dict with a factory, or allow this one file.",
        )
    if not _SHA256.fullmatch(source.sha256):
        raise CheckpointUnsafe(
            checkpoint_uri,
            f"a {source.format} is a program, and this release does not say the sha256 of the one file that it trusts "
            f"(the config has {source.sha256!r})",
            "Name it: in the extra of the Asset's event, in the trigger form, or by --sha256.",
        )


def fetch_checkpoint(spec: ModelSpec, checkpoint_uri: str, environment: Environment, folder: Path) -> FetchedCheckpoint:
    """
    Stream a checkpoint into `folder` and look into its bytes; nothing of it is loaded.

    Raises CheckpointMissing, CheckpointUnreadable, StoreUnavailable, and CheckpointUnsafe for a file that would run
    code, unpack to more than it is, or name a place outside of its folder. On an error no file stays.
    """
    source = spec.source
    if source.format == PARTS:
        parts = spec.serving.ensemble.parts.values() if spec.serving.ensemble else ()
        configs = sorted(part.config for part in parts if part.config)
        why = f"an ensemble has no checkpoint of its own; name the config of one of its parts: {configs}"
        raise BadModelConfig(spec.name, [why])
    suffix = PurePosixPath(urlsplit(checkpoint_uri).path).suffix.lower()
    allowed = _SUFFIXES[source.format]
    if suffix not in allowed:
        known = ", ".join(allowed)
        raise CheckpointUnreadable(
            checkpoint_uri, f"{suffix or 'no suffix'!r} is no known kind of file for a {source.format} ({known})"
        )
    require_pin(source, checkpoint_uri)
    fetched = fetch(
        checkpoint_uri,
        folder / f"checkpoint{suffix}",
        environment,
        max_bytes=source.max_bytes,
        sha256=source.sha256,
    )
    try:
        if fetched.size_bytes == 0:
            raise CheckpointUnreadable(checkpoint_uri, "it is empty")
        inspection.look_into(checkpoint_uri, fetched.path, source.format)
    except BaseException:
        fetched.path.unlink(missing_ok=True)
        raise
    return FetchedCheckpoint(checkpoint_uri, fetched.path, fetched.sha256, fetched.size_bytes)


def open_checkpoint(spec: ModelSpec, fetched: FetchedCheckpoint) -> nn.Module:
    """
    Load a fetched checkpoint into a module in eval mode, without gradients.

    Of a state_dict nothing runs but the user's own factory. An exported program or TorchScript is code and runs: it is
    opened in a child process alone (`model_release.build`). Where a TorchScript has a factory, the module is that one,
    with the weights of the file: what the file has to answer as. Raises CheckpointUnreadable, TensorsDoNotMatch,
    FactoryFailed.
    """
    if spec.source.is_code:
        program = programs.load(spec.source.format, fetched.uri, fetched.path)
        if spec.source.factory is None:
            return program
        made_from = factory.build(spec.source)
        # A trace keeps as weights what the module itself makes anew, such as the numbers of places.
        own = {name for name, _ in made_from.named_buffers()} - set(made_from.state_dict())
        weights = {name: tensor for name, tensor in program.state_dict().items() if name not in own}
        state_dict.fill(made_from, weights, fetched.uri, spec.source)
        return made_from
    module = factory.build(spec.source)
    state_dict.load_into(module, fetched.uri, fetched.path, spec.source)
    return module
