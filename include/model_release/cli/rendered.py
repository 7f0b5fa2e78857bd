"""What a model config becomes for Triton, and how that differs from what stable's version was sealed with."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from model_release.cli.output import Output
from model_release.environment import Environment
from model_release.errors import BytesDiffer, Unavailable, VersionNotFound, VersionPruned
from model_release.spec import ModelSpec
from model_release.triton import config as configs
from model_release.triton.bundle import Bundle, build_bundle, bundle_of
from model_release.triton.checked import ANY_VERSION

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True)
class Comparison:
    """How a spec's config differs from stable's; `why_not` where they could not be compared."""

    stable: int | None = None
    diff: list[str] | None = None
    benchmarked: bool = False
    why_not: str | None = None


def text(config: ModelConfig | Bundle) -> str:
    """
    Return the text of config.pbtxt without the line of its epoch and without its digest, which says nothing new.

    Of an ensemble each part's comes first, under a line with the name of its Triton model.
    """
    bundle = bundle_of(config)
    told = []
    for each in bundle.by_part.values():
        for name in [name for name in each.parameters if name.startswith(configs.RELEASE_DIGEST)]:
            del each.parameters[name]
        heading = f"# {each.name}\n" if bundle.parts else ""
        told.append(heading + configs.render(each, epoch=0).partition("\n")[2])
    return "\n".join(told)


def compare(spec: ModelSpec, environment: Environment) -> Comparison:
    """
    Hold a spec's config against the sealed one of stable's version; both name that version, and neither its digest.

    An S3 that does not answer is no error of the spec, and is told as `why_not`.
    """
    from model_release.ledger.state import StateFile
    from model_release.repository.store import ObjectStore
    from model_release.steps.context import Seen
    from model_release.steps.serve import sealed_bundle

    store = ObjectStore(environment.s3)
    seen = Seen(spec, environment, store)
    try:
        stable = StateFile(store, spec.name).read().stable
        if stable is None:
            return Comparison()
        sealed = sealed_bundle(seen, stable.version)
        benchmarked = seen.archive.sealed(stable.version, "tuned") is not None
    except (Unavailable, BytesDiffer, VersionNotFound, VersionPruned) as error:
        return Comparison(why_not=str(error))
    asked = build_bundle(spec, stable.version)
    lines = difflib.unified_diff(
        text(sealed).splitlines(),
        text(asked).splitlines(),
        f"stable, version {stable.version}",
        "this spec",
        "",
        "",
        3,
        "",
    )
    return Comparison(stable.version, list(lines), benchmarked)


def show(output: Output, spec: ModelSpec) -> dict[str, Any]:
    """Write a spec's config, and its difference from stable's where an environment is given; returns both."""
    spec = spec.served_as(spec.served_name)
    rendered = text(build_bundle(spec, ANY_VERSION))
    output.say(f"config.pbtxt of {spec.name}; a release writes its own version and digest")
    output.say(escape(rendered.rstrip()))
    if output.environment_file is None:
        return {"config": rendered}
    found = compare(spec, output.environment)
    if found.why_not is not None:
        output.say(f"[yellow]note[/yellow] it was not compared with stable's: {escape(found.why_not)}")
    elif found.stable is None:
        output.say("nothing is stable yet, so there is nothing to compare it with")
    elif not found.diff:
        output.say(f"stable, version {found.stable}, was sealed with the same config")
    else:
        for line in found.diff:
            colour = _COLOURS.get(line[:1])
            output.say(f"[{colour}]{escape(line)}[/{colour}]" if colour else escape(line))
        if found.benchmarked:
            output.say("what the benchmark chose for stable (delay, instances) is in its config; it is searched anew")
    return {"config": rendered, **asdict(found)}
