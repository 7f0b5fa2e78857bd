"""Commands that need no server: export a checkpoint to ONNX, and prove that the file answers as the model does."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from model_release import build, parity
from model_release.build import PAGE, PARITY, WORST, ProofInputs
from model_release.cli.output import Output, Sha256, nowhere
from model_release.environment import Environment
from model_release.errors import BadModelConfig
from model_release.intake import fetch_checkpoint
from model_release.parity.report import ParityReport
from model_release.spec import ModelSpec

_NONE = "none"
_MB = 1e6


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)
    app.command()(validate)


def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    checkpoint: Annotated[str, typer.Option(help="A file, or a file:// or s3:// URI.")],
    out: Annotated[Path, typer.Option(help="Folder for model.onnx, or model.pt.")],
    version: Annotated[int, typer.Option(help="Version to write into the file's metadata.")] = 0,
    sha256: Sha256 = None,
) -> None:
    """Export a checkpoint to OUT/model.onnx; what the pytorch backend serves is kept as OUT/model.pt."""
    output: Output = context.obj
    spec, uri = output.spec(name).pinned(sha256), _uri(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, output.progress() as progress:
        progress(f"fetching {uri}")
        fetched = fetch_checkpoint(spec, uri, _environment(output, [uri]), Path(folder))
        files = build.export(spec, fetched, out / spec.serving.exported_file, version=version, progress=progress)
    size_bytes = sum(file.stat().st_size for file in files)
    output.say(f"wrote {', '.join(map(str, files))} ({size_bytes / _MB:.1f} MB) from {uri} (sha256 {fetched.sha256})")
    output.say(f"prove it: model-release validate {name} --onnx {files[0]} --checkpoint {checkpoint}")
    source = {"uri": fetched.uri, "sha256": fetched.sha256}
    output.give({"onnx": str(files[0]), "files": [str(file) for file in files], "bytes": size_bytes, "source": source})


def validate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    onnx: Annotated[
        Path,
        typer.Option(help="The ONNX file; model.pt of the pytorch backend.", exists=True, dir_okay=False),
    ],
    checkpoint: Annotated[str, typer.Option(help="A file, or a file:// or s3:// URI.")],
    out: Annotated[Path, typer.Option(help="The report; its page and worst.npz go beside it.")] = Path(PARITY),
    samples: Annotated[str | None, typer.Option(help="Instead of parity.samples: a file, a URI, or 'none'.")] = None,
    golden: Annotated[str | None, typer.Option(help="Instead of accuracy.golden_set: a file, a URI or 'none'.")] = None,
    stable: Annotated[
        Path | None, typer.Option(help="The ONNX file that serves now, to compare with.", exists=True, dir_okay=False)
    ] = None,
    sha256: Sha256 = None,
) -> None:
    """Prove that an ONNX file answers as its checkpoint does, whatever batch it is in, and no worse than STABLE."""
    output: Output = context.obj
    spec, uri = output.spec(name).pinned(sha256), _uri(checkpoint)
    samples = _chosen(samples, spec.parity.samples)
    golden = _chosen(golden, spec.accuracy.golden_set if spec.accuracy else None)
    environment = _environment(output, [uri, samples, golden])
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name_of_folder, output.progress() as progress:
        folder = Path(name_of_folder)
        progress(f"fetching {uri}")
        against = ProofInputs(
            samples=parity.load_samples(samples, spec, environment) if samples else None,
            golden=parity.load_samples(golden, spec, environment, with_label=True) if golden else None,
            stable=parity.StableVersion(0, spec, stable) if stable else None,
        )
        fetched = fetch_checkpoint(spec, uri, environment, folder)
        report = build.validate(spec, fetched, onnx, folder, against=against, progress=progress)
        page = _keep(folder, out)
    _tell(output, spec, report)
    if report.passed:
        output.say(f"[green]equal[/green]: {page}")
        output.give(report.model_dump(mode="json"))
        return
    output.say(f"[red]not equal[/red]: {page}")
    report.raise_for_failure()


def _keep(folder: Path, out: Path) -> Path:
    """Move the report, its page and the worst samples to where they were asked for; return the page."""
    page = out.with_name(PAGE) if out.name == PARITY else out.with_suffix(".html")
    for name, to in ((PARITY, out), (PAGE, page), (WORST, out.with_name(WORST))):
        if (folder / name).exists():
            shutil.move(folder / name, to)
    return page


def _tell(output: Output, spec: ModelSpec, report: ParityReport) -> None:
    """Show each output's error beside what is allowed."""
    rows = [
        [
            found.output,
            found.provider,
            f"{found.max_abs:.3g}",
            str(spec.tolerance(found.output)),
            f"{found.differing} of {found.elements}",
            "" if found.top1_agreement is None else f"{found.top1_agreement:.4f}",
        ]
        for found in report.outputs
    ]
    columns = ["output", "provider", "max |error|", "allowed", "beyond it", "top-1 agreement"]
    output.table(f"{report.model}: ONNX against PyTorch ({report.seconds:.1f} s)", columns, rows)
    if report.accuracy is not None:
        output.say(f"accuracy {report.accuracy.accuracy:.4f} on {report.accuracy.samples} labelled samples")


def _uri(text: str) -> str:
    """Return a URI; what has no scheme is a file."""
    return text if "://" in text else Path(text).resolve().as_uri()


def _chosen(option: str | None, configured: str | None) -> str | None:
    """Return what the option says, else what the config does."""
    if option is None:
        return configured
    return None if option == _NONE else _uri(option)


def _environment(output: Output, uris: list[str | None]) -> Environment:
    """Return the environment; where every URI is a file, none has to be configured."""
    on_s3 = [uri for uri in uris if uri is not None and uri.startswith("s3://")]
    if output.environment_file is not None:
        return output.environment
    if on_s3:
        how = "give --environment FILE; or name local files by --samples and --golden, or 'none'"
        raise BadModelConfig("the environment", [f"{', '.join(on_s3)} lies on S3: {how}"])
    return nowhere()
