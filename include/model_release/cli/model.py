"""Commands that look at a model before it is released: check, export, validate."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from model_release.cli.output import Output
from model_release.environment import S3, Environment, EnvoyRouter, Fleet, FleetPair, Replica
from model_release.errors import BadModelConfig
from model_release.spec_files import find_spec, load_specs


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(check)
    app.command()(export)
    app.command()(validate)


def check(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Models; all of them without a name.")] = None,
) -> None:
    """Check model configs; every problem in one run, nothing is touched."""
    output: Output = context.obj
    if names:
        specs, problems = {}, []
        for name in names:
            try:
                specs[name] = find_spec(output.configs, name)
            except BadModelConfig as bad:
                problems.append(bad)
    else:
        specs, problems = load_specs(output.configs)
    for name, spec in specs.items():
        schedule = f"schedule {spec.schedule} UTC" if spec.schedule else "no schedule, so no backfill"
        output.say(f"[green]ok[/green]  {name}: {schedule}; stages {spec.canary.stages}")
    for problem in problems:
        output.say(f"[red]bad[/red] {problem}")
    output.give({"ok": sorted(specs), "bad": {problem.path: problem.problems for problem in problems}})
    if problems:
        raise typer.Exit(1)
    if not specs:
        raise BadModelConfig(str(output.configs), ["the folder holds no model config"])


def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    checkpoint: Annotated[str, typer.Option(help="s3:// or file:// URI.")],
    out: Annotated[Path, typer.Option(help="Folder for model.onnx.")],
) -> None:
    """Export a checkpoint to OUT/model.onnx."""
    from model_release.export import export_onnx
    from model_release.intake import load_model

    output: Output = context.obj
    spec = output.spec(name)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        loaded = load_model(spec, checkpoint, _environment_for(output, checkpoint), Path(folder))
        export_onnx(spec, loaded.module, out / "model.onnx", version=0, source_sha256=loaded.sha256)
    output.say(f"wrote {out / 'model.onnx'} from {loaded.uri} (sha256 {loaded.sha256})")
    output.give({"onnx": str(out / "model.onnx"), "source": {"uri": loaded.uri, "sha256": loaded.sha256}})


def validate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model.")],
    onnx: Annotated[Path, typer.Option(help="The ONNX file.")],
    checkpoint: Annotated[str, typer.Option(help="s3:// or file:// URI.")],
    out: Annotated[Path, typer.Option(help="Where to write the report.")] = Path("parity.json"),
) -> None:
    """Prove that an ONNX file answers as its checkpoint does."""
    from model_release import parity
    from model_release.intake import load_model
    from model_release.parity.report import Source

    output: Output = context.obj
    spec = output.spec(name)
    environment = _environment_for(output, checkpoint, *([spec.parity.samples] if spec.parity.samples else []))
    with TemporaryDirectory() as folder:
        loaded = load_model(spec, checkpoint, environment, Path(folder))
        samples = parity.load_samples(spec.parity.samples, spec, environment) if spec.parity.samples else None
        source = Source(uri=loaded.uri, sha256=loaded.sha256)
        proof = parity.prove(spec, loaded.module, onnx, source=source, samples=samples)
    report = proof.model_dump(mode="json")
    out.write_text(json.dumps(report, indent=1))
    proof.raise_for_failure()
    output.say(f"[green]equal[/green] ; report in {out}")
    output.give(report)


def _environment_for(output: Output, *uris: str) -> Environment:
    """Return the environment; where every URI is a file, none has to be configured."""
    if any(uri.startswith("s3://") for uri in uris) or output.environment_file is not None:
        return output.environment
    nowhere = Fleet(replicas=[Replica(name="none", http="none", grpc="none", metrics="none")])
    return Environment(
        s3=S3(bucket="none"),
        pairs={"default": FleetPair(blue=nowhere, green=nowhere, bench=nowhere)},
        router=EnvoyRouter(directory=Path(), admin=["none"], http="none"),
    )
