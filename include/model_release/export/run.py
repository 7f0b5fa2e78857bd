"""The stages of an export, in a folder of their own until all of them are through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from model_release.export import dynamo, graph, half, torchscript, write
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def export_onnx(
    spec: ModelSpec,
    module: nn.Module,
    path: Path,
    *,
    version: int,
    source_sha256: str,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """
    Export a module to the ONNX file `path`, with the spec's names and a dynamic batch axis everywhere.

    Weights over 1.8 GB lie in a second file beside it, `<path>.data`. Returns the files. They name model, version and
    source in their metadata and hold no path of this machine; the same module gives the same bytes. The weights are
    written tensor by tensor. Raises ExportFailed, with the operator or the user's line where it can be found; then
    no file is there, nor changed.
    """
    import onnx
    from torch import jit

    say = progress or (lambda _: None)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        raw = Path(folder) / path.name
        say("translating to ONNX")
        scripted = isinstance(module, jit.ScriptModule)
        (torchscript if scripted else dynamo).translate(spec, module, raw)
        if spec.export.precision == "fp16":
            say("converting to float16")
            half.halve(spec, raw)
        model = onnx.load(str(raw), load_external_data=False)
        graph.clean(model)
        graph.name_tensors(spec, model)
        graph.name_axes(spec, model)
        graph.describe(model, spec, "torchscript" if scripted else "dynamo", version, source_sha256)
        raw.write_bytes(model.SerializeToString(deterministic=True))
        say("checking the graph")
        graph.check(spec, raw, model)
        say(f"writing {path.name}")
        return write.put(model, raw, path, write.MOST_BYTES)
