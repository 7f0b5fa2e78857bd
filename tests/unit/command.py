"""`model-release` as a person calls it, in this process: its exit code and what it wrote."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from model_release.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "include" / "model_configs"


@dataclass(frozen=True)
class Done:
    """What a process would have left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, configs: Path = EXAMPLES) -> Done:
    """Run the command line from the repository's root, without what MODEL_RELEASE_* in the environment would add."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MODEL_RELEASE")}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, variables, clear=True),
        mock.patch.object(sys, "argv", ["model-release", "--configs", str(configs), *arguments]),
        mock.patch.object(sys, "path", list(sys.path)),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Done(code, out.getvalue(), err.getvalue())
