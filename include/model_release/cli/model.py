"""`model-release check`: the model configs, and the store."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Output
from model_release.cli.rendered import show as show_rendered
from model_release.environment import Signing
from model_release.errors import BadModelConfig
from model_release.repository.probe import probe
from model_release.repository.signing import require_usable
from model_release.spec import ModelSpec
from model_release.spec_files import find_spec, load_specs
from model_release.triton.checked import unserved


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Models; all of them without a name.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Also try each S3 verb that a release relies on.")] = False,
    show: Annotated[
        bool | None,
        typer.Option(help="The config.pbtxt of each, and its difference from stable's; by default for one NAME."),
    ] = None,
) -> None:
    """
    Check model configs and the environment's keys; nothing is touched.

    A config is rendered for Triton, held against its rules and shown; with an environment, beside stable's, which is
    read from S3. With --store, each verb of S3 is tried, in a key of its own.
    """
    output: Output = context.obj
    specs, problems = _read(output, names)
    for name, spec in specs.items():
        schedule = f"schedule {spec.schedule} UTC" if spec.schedule else "no schedule, so no backfill"
        output.say(f"[green]ok[/green]  {name}: {schedule}; stages {spec.canary.stages}")
    for problem in problems:
        output.say(f"[red]bad[/red] {escape(str(problem))}")
    _check_keys(output)
    verbs = probe(output.environment.s3) if store else []
    if verbs:
        output.say(f"[green]ok[/green]  the store {output.environment.s3.bucket}: {', '.join(verbs)}")
    shown = [] if not (len(names or []) == 1 if show is None else show) else list(specs.values())
    rendered = {"configs": {spec.name: show_rendered(output, spec) for spec in shown}} if shown else {}
    bad = {problem.path: problem.problems for problem in problems}
    output.give({"ok": sorted(specs), "bad": bad, "verbs": verbs, **rendered})
    if problems:
        raise typer.Exit(1)
    if not specs:
        raise BadModelConfig(str(output.configs), ["the folder holds no model config"])


def _read(output: Output, names: list[str] | None) -> tuple[dict[str, ModelSpec], list[BadModelConfig]]:
    """Read the configs and render each; returns the good ones, and the problems of the others by their files."""
    if names:
        specs, problems = {}, []
        for name in names:
            try:
                specs[name] = find_spec(output.configs, name)
            except BadModelConfig as bad:
                problems.append(bad)
    else:
        specs, problems = load_specs(output.configs)
    unrendered = unserved(specs, output.configs)
    bad_files = {problem.path for problem in unrendered}
    good = {name: spec for name, spec in specs.items() if str(output.configs / f"{name}.yaml") not in bad_files}
    return good, [*problems, *unrendered]


def _check_keys(output: Output) -> None:
    """Open the keys of the environment. Raises SigningKeyUnusable."""
    signing = output.environment.signing if output.environment_file is not None else Signing()
    require_usable(signing, signer=False)
    if signing.signs or signing.trusted:
        signer = "signs and believes" if signing.signs else "believes"
        required = "required" if signing.require else "not required"
        output.say(
            f"[green]ok[/green]  the keys: it {signer} {len(signing.trusted)} signers; signatures are {required}"
        )
