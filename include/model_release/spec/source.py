"""`source`: where the trained weights lie, and what builds the module that takes them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from model_release.spec.section import Section

#: What `{{ ... }}` in source.checkpoint may name: the run's UTC date as YYYY-MM-DD, and its version.
CHECKPOINT_VARIABLES = ("date", "version")
_ASSET_EXTRA = "asset.extra."
PARTS: Literal["parts"] = "parts"
_VARIABLE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")


def template_variables(text: str) -> list[str]:
    """Return the names inside `{{ }}` of a template, in order."""
    return _VARIABLE.findall(text)


def render_template(text: str, variables: dict[str, str]) -> str:
    """
    Put values into the `{{ name }}` places of a template.

    Raises KeyError when the template names a variable without a value.
    """
    return _VARIABLE.sub(lambda match: variables[match.group(1)], text)


class Source(Section):
    """
    Where the trained weights lie, and what builds the module that takes them.

    A `state_dict` is data: the factory builds the module, and nothing of the file runs. An `exported_program` (.pt2)
    and a `torchscript` archive are programs: they run only with `allow_code: true`, and only the file of `sha256`.
    For a model that is trained again and again `sha256` may be `"{{ asset.extra.sha256 }}"`: each release then pins the
    file that its training named, and so trusts whoever may emit that Asset.

    A `torchscript` that the pytorch backend serves as it is may have a factory too: the module that it was made from,
    which takes its weights and is the reference of the proof.

    `parts` is an ensemble's, which nobody writes: its parts have sources of their own.
    """

    format: Literal["state_dict", "exported_program", "torchscript", "parts"] = "state_dict"
    checkpoint: str
    factory: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    factory_kwargs: dict[str, Any] = {}
    allow_code: bool = False
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|\{\{ *asset\.extra\.\w+ *\}\})$")] | None = None
    max_bytes: Annotated[int, Field(gt=0)] = 8 * 2**30

    @model_validator(mode="after")
    def _known_scheme_and_variables(self) -> Source:
        if self.format == PARTS:
            return self
        if not self.checkpoint.startswith(("s3://", "file://")):
            message = f"checkpoint {self.checkpoint!r} must start with s3:// or file://"
            raise ValueError(message)
        for variable in template_variables(self.checkpoint):
            if variable not in CHECKPOINT_VARIABLES and not variable.startswith(_ASSET_EXTRA):
                message = (
                    f"checkpoint names the variable {variable!r}; there are "
                    f"{', '.join(CHECKPOINT_VARIABLES)} and asset.extra.<key>"
                )
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _code_is_allowed_by_name(self) -> Source:
        if self.format == PARTS:
            return self
        if not self.is_code:
            if self.factory is None:
                message = "factory is missing: a state_dict needs the function that builds its module"
                raise ValueError(message)
            if self.allow_code:
                message = "allow_code is for exported_program and torchscript; nothing of a state_dict is ever run"
                raise ValueError(message)
            return self
        if self.format != "torchscript" and (self.factory is not None or self.factory_kwargs):
            message = f"factory is for state_dict; an {self.format} brings its own module"
            raise ValueError(message)
        if not self.allow_code or self.sha256 is None:
            message = (
                f"an {self.format} is a program that runs when it is loaded: it needs allow_code: true, and sha256 of "
                "the one file that you trust. A state_dict with a factory needs neither"
            )
            raise ValueError(message)
        return self

    @property
    def is_code(self) -> bool:
        """Whether loading the checkpoint runs code that came with it."""
        return self.format not in ("state_dict", PARTS)

    @property
    def pinned_by(self) -> str | None:
        """The key of the asset event's extra that says each release's sha256; None where the config says it."""
        named = template_variables(self.sha256 or "")
        return named[0].removeprefix(_ASSET_EXTRA) if named else None


OF_PARTS = Source(format=PARTS, checkpoint="")
"""The source of an ensemble."""
