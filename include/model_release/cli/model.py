"""`model-release check`: the model configs, and the store."""

from __future__ import annotations

from typing import Annotated

import typer

from model_release.cli.output import Output
from model_release.environment import Signing
from model_release.errors import BadModelConfig
from model_release.repository.probe import probe
from model_release.repository.signing import require_usable
from model_release.spec_files import find_spec, load_specs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Models; all of them without a name.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Also try each S3 verb that a release relies on.")] = False,
) -> None:
    """Check model configs and the environment's keys, nothing is touched. With --store, S3 too, in a key of its own."""
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
    signing = output.environment.signing if output.environment_file is not None else Signing()
    require_usable(signing, signer=False)
    if signing.signs or signing.trusted:
        signer = "signs and believes" if signing.signs else "believes"
        required = "required" if signing.require else "not required"
        output.say(
            f"[green]ok[/green]  the keys: it {signer} {len(signing.trusted)} signers; signatures are {required}"
        )
    verbs = probe(output.environment.s3) if store else []
    if verbs:
        output.say(f"[green]ok[/green]  the store {output.environment.s3.bucket}: {', '.join(verbs)}")
    output.give({"ok": sorted(specs), "bad": {problem.path: problem.problems for problem in problems}, "verbs": verbs})
    if problems:
        raise typer.Exit(1)
    if not specs:
        raise BadModelConfig(str(output.configs), ["the folder holds no model config"])
