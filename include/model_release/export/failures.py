"""Why a model does not export: the operator or the line of the user's code that is to blame, and what usually helps."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from model_release.errors import ExportFailed
from model_release.export.graph import BATCH_AXIS
from model_release.export.silence import silence
from model_release.spec import ModelSpec

_LIBRARIES = (
    *(f"/site-packages/{name}/" for name in ("torch", "onnxscript", "onnx_ir", "onnx")),
    f"{Path(__file__).parent.parent}/",
)
_STANDARD = sysconfig.get_paths()["stdlib"]
_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'|[Ee]xporting the operator '([\w:.]+)'")
_FIXED_AXIS = re.compile(r"Constraints violated|was inferred to be a constant", re.IGNORECASE)
_FIXED_TO = re.compile(r"Suggested fixes:\s*\n((?:[ \t]+\S.*\n?)+)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\s*\n\s*(\S.*)')
#: What an exporter says, what it means, and what usually helps; the first that fits is told.
_KNOWN = (
    (
        r"data-dependent|GuardOnDataDependent|_local_scalar_dense",
        "the flow of forward depends on the values of a tensor",
        "Use torch.where or torch.cond instead of `if`, and no .item() or .tolist().",
    ),
    (
        r"from numpy|\.numpy\(\)|Cannot call numpy|numpy\.ndarray",
        "forward leaves torch for numpy",
        "Compute it with torch, or before the model.",
    ),
    (
        r"complex(64|128)|ComplexFloat",
        "it computes with complex numbers, which ONNX does not have",
        "Carry real and imaginary part as a last axis of 2 (torch.view_as_real).",
    ),
    (
        r"Mutating|mutat\w+ (a |an )?(input|buffer)|Node .* mutates|was mutated",
        "forward changes its inputs or a buffer, and a served model has no state",
        "Return what is needed, and work on a clone.",
    ),
    (
        r"autograd\.Function|autograd_function|custom (op|function)",
        "it has a function of its own that ONNX does not know",
        "Write its forward with torch's own operators for inference.",
    ),
)


def failure(spec: ModelSpec, error: Exception, program: Any, module: Any = None) -> ExportFailed:
    """Turn an exception of the exporter into a sentence about the user's model."""
    chain = list(_chain(error))
    text = "\n".join(str(link) for link in chain)
    where = _users_line(chain)
    operator = _OPERATOR.search(text)
    if operator:
        name = operator.group(1) or operator.group(2)
        where = _line_of(name, program) or where
        why = f"ONNX opset {spec.export.opset} has no operator for {name}{where}"
        return ExportFailed(spec.name, why, "Write it with other operators, or raise export.opset.")
    if _FIXED_AXIS.search(text):
        fixed = _FIXED_TO.search(text)
        what = f" ({', '.join(line.strip() for line in fixed.group(1).splitlines())})" if fixed else ""
        why = f"forward does not take every size of the spec's dynamic axes{what}{where}"
        recurrent = _recurrent(module)
        if recurrent and (fixed is None or BATCH_AXIS not in fixed.group(1)):
            hint = f"The recurrent layer {recurrent} is unrolled over its sequence: give that axis one size, and pad."
            return ExportFailed(spec.name, why, hint)
        hint = "Take sizes from the inputs (x.shape[0], reshape(x.shape[0], -1)), or write what it takes into the spec."
        return ExportFailed(spec.name, why, hint)
    for pattern, meaning, hint in _KNOWN:
        if re.search(pattern, text, re.IGNORECASE):
            return ExportFailed(spec.name, f"{meaning}{where}", hint)
    first = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), "no reason given")
    return ExportFailed(spec.name, f"{type(chain[-1]).__name__}: {first[:300]}{where}")


def _recurrent(module: Any) -> str:
    """Return the first LSTM, GRU or RNN of a module, as 'name (LSTM)', or nothing."""
    from torch import nn

    found = module.named_modules() if module is not None else ()
    return next((f"{name} ({type(part).__name__})" for name, part in found if isinstance(part, nn.RNNBase)), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _users_line(chain: Iterable[BaseException]) -> str:
    """Return ' (file.py line 12: code)' of the innermost line of the user's own code, or nothing."""
    for link in reversed(list(chain)):
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if _is_users(frame.filename):
                return f" ({Path(frame.filename).name} line {frame.lineno}: {frame.line})"
    return ""


def _is_users(filename: str) -> bool:
    if filename.startswith("<") or any(part in filename for part in _LIBRARIES):
        return False
    return "/site-packages/" in filename or not filename.startswith(_STANDARD)


def _line_of(operator: str, program: Any) -> str:
    """Return the user's line that an operator came from, as `_users_line` does."""
    if program is None:
        return ""
    with silence():
        nodes = program.run_decompositions().graph.nodes
    for node in nodes:
        if str(node.target).startswith(operator):
            for filename, line, code in reversed(_FRAME.findall(node.meta.get("stack_trace") or "")):
                if _is_users(filename):
                    return f" ({Path(filename).name} line {line}: {code})"
    return ""
