"""Whether a replica serves the config that was asked for, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Sections written whole: a number that we leave at its default was meant, a delay of 0 above all.
_EXACT = frozenset(
    {
        *("input", "output", "dynamic_batching", "version_policy", "model_warmup", "parameters"),
        *("rate_limiter", "execution_accelerators", "response_cache", "model_metrics"),
    }
)
#: Inside these, what Triton fills in all the same.
_FILLED = frozenset({"preferred_batch_size"})
#: What Triton never fills in: where it was not asked for, its presence changes what is answered, or by which code.
_NEVER_FILLED = (
    *("batch_input", "batch_output", "model_warmup", "model_operations", "model_repository_agents"),
    *("cc_model_filenames", "response_cache.enable", "model_transaction_policy.decoupled"),
    *("optimization.execution_accelerators", "optimization.graph.level"),
)


def differences(asked: ModelConfig, served: ModelConfig) -> list[str]:
    """
    Say where a served config is not the one that was asked for; empty when it is.

    Every field that `asked` sets has to come back equal. Beside them Triton fills what was left out, but inside
    the sections that are written whole a number or name left at its default has to come back as that. So has what
    Triton never fills in, above all a scheduler that was not asked for, which would mix the requests of strangers.
    """
    return _of_scheduler(asked, served) + _unasked(asked, served) + _of_message(asked, served, "", exact=False)


def _of_scheduler(asked: ModelConfig, served: ModelConfig) -> list[str]:
    """Compare what `_of_message` passes over, since 0 and absence are protobuf's defaults."""
    found = []
    if asked.max_batch_size == 0 and served.max_batch_size:
        found.append(f"max_batch_size is {served.max_batch_size}, asked 0")
    scheduler, wanted = served.WhichOneof("scheduling_choice"), asked.WhichOneof("scheduling_choice")
    if scheduler != wanted:
        found.append(f"{scheduler or 'no scheduler'} is set, asked {wanted or 'none'}")
    return found


def _unasked(asked: ModelConfig, served: ModelConfig) -> list[str]:
    """Name what is served and was never asked for, among what Triton does not fill in by itself."""
    found = []
    for path in _NEVER_FILLED:
        ours, theirs = _at(asked, path), _at(served, path)
        if theirs != ours and not _is_set(ours):
            found.append(f"{path} is set, asked none")
    return found


def _at(config: ModelConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _is_set(value: Any) -> bool:
    return bool(value.ListFields()) if hasattr(value, "ListFields") else bool(value)


def _of_message(asked: Any, served: Any, path: str, *, exact: bool) -> list[str]:
    found: list[str] = []
    set_fields = {field.name for field, _ in asked.ListFields()}
    for field in asked.DESCRIPTOR.fields:
        ours, theirs = getattr(asked, field.name), getattr(served, field.name)
        if field.name in set_fields:
            found += _of_value(ours, theirs, path + field.name, exact=exact or field.name in _EXACT)
        elif exact and field.name not in _FILLED and ours != theirs:
            scalar = isinstance(ours, bool | int | float | str)
            found.append(f"{path}{field.name} is {f'{theirs!r}, asked {ours!r}' if scalar else 'set, asked none'}")
    return found


def _of_value(ours: Any, theirs: Any, where: str, *, exact: bool) -> list[str]:
    if isinstance(ours, Mapping):
        missing = [f"{where}[{key!r}] is missing" for key in sorted(ours) if key not in theirs]
        both = [key for key in sorted(ours) if key in theirs]
        if exact and where != "parameters":
            missing += [f"{where}[{key!r}] is set, asked none" for key in sorted(theirs) if key not in ours]
        return missing + _of_pairs([(f"{where}[{key!r}]", ours[key], theirs[key]) for key in both], exact=exact)
    if isinstance(ours, Sequence) and not isinstance(ours, str | bytes):
        if len(ours) != len(theirs):
            return [f"{where} has {len(theirs)} entries, asked {len(ours)}"]
        pairs = [(f"{where}[{i}]", mine, its) for i, (mine, its) in enumerate(zip(ours, theirs, strict=True))]
        return _of_pairs(pairs, exact=exact)
    return _of_pairs([(where, ours, theirs)], exact=exact)


def _of_pairs(pairs: list[tuple[str, Any, Any]], *, exact: bool) -> list[str]:
    found: list[str] = []
    for where, ours, theirs in pairs:
        if hasattr(ours, "ListFields"):
            found += _of_message(ours, theirs, f"{where}.", exact=exact)
        elif ours != theirs:
            found.append(f"{where} is {theirs!r}, asked {ours!r}")
    return found
