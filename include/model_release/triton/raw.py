"""
`serving.raw`: fields of Triton's ModelConfig that the spec has no word for, as JSON, checked by Triton's own schema.

What the pipeline writes itself is refused here, and so is what would have the server run or read something that nobody
sealed, or serve in a way that a canary cannot judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_release.triton import onnxruntime, pytorch, tensorrt
from model_release.triton.text import RELEASE_DIGEST

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_SERVES_STREAMS = "a canary sends each request to either version and judges one answer a request"
_LOADS_CODE = "it names code that the server would run, which is not sealed with the version"
_REFUSED = {
    "name": "the file's name is the model's",
    "platform": "the backend says it",
    "backend": "use serving.backend",
    "runtime": _LOADS_CODE,
    "version_policy": "the pipeline names the one version that a fleet serves",
    "max_batch_size": "use serving.max_batch_size",
    "input": "use inputs",
    "output": "use outputs",
    "batch_input": "the proof on each replica sends the spec's inputs and no others",
    "batch_output": "the proof on each replica compares the spec's outputs as they are",
    "dynamic_batching": "use serving.dynamic_batching and serving.queue",
    "sequence_batching": f"{_SERVES_STREAMS}, so a sequence would lose its state",
    "ensemble_scheduling": "use serving.ensemble, whose parts are released with it",
    "default_model_filename": "the pipeline names the version's files",
    "cc_model_filenames": "the pipeline names the version's files",
    "model_warmup": "use serving.warmup, which sends recorded samples",
    "model_operations": _LOADS_CODE,
    "model_transaction_policy": f"{_SERVES_STREAMS}, so a stream would be cut",
    "model_repository_agents": "an agent may change the files that were sealed, as they are loaded",
    "response_cache": "use serving.response_cache",
}
_PARAMETERS = {
    "onnxruntime": onnxruntime.PARAMETERS,
    "pytorch": pytorch.PARAMETERS,
    "tensorrt": tensorrt.PARAMETERS,
}
#: Of the one instance group; all else of it is serving.instance_group's.
_OF_INSTANCE_GROUP = ("host_policy", "profile", "secondary_devices")


def merge(config: ModelConfig, given: Mapping[str, Any]) -> list[str]:
    """Merge the JSON into a config; returns sentences about what it may not set, and nothing is merged then."""
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        fields = json_format.ParseDict(dict(given), pb.ModelConfig())
    except (json_format.ParseError, TypeError, ValueError) as error:
        return [f"raw: {str(error).splitlines()[0].strip()}"]
    problems = [f"raw.{problem}" for problem in _refused(_names(given, fields), fields, config)]
    if not problems:
        for entry in fields.instance_group:
            config.instance_group[0].MergeFrom(entry)
        fields.ClearField("instance_group")
        config.MergeFrom(fields)
    return problems


def _names(given: Mapping[str, Any], message: Any) -> list[str]:
    """Return the fields that JSON names, also those at their default, by their names in the schema."""
    by_json = {field.json_name: field.name for field in message.DESCRIPTOR.fields}
    return [by_json.get(name, name) for name in given]


def _refused(names: list[str], fields: Any, config: ModelConfig) -> list[str]:
    found = [f"{name} is refused: {_REFUSED[name]}" for name in names if name in _REFUSED]
    if fields.optimization.HasField("execution_accelerators"):
        found.append("optimization.execution_accelerators is refused: use serving.accelerators")
    for name in sorted(fields.parameters):
        if name == RELEASE_DIGEST:
            found.append(f"parameters.{name} is refused: the pipeline writes it")
        elif name in _PARAMETERS.get(config.backend, ()) or name in config.parameters:
            found.append(f"parameters.{name} is refused: use serving.parameters")
    if "instance_group" in names:
        found += _of_instance_group(fields)
    return found


def _of_instance_group(fields: Any) -> list[str]:
    allowed = f"raw adds {', '.join(_OF_INSTANCE_GROUP)} to the one group; the rest is serving.instance_group's"
    if len(fields.instance_group) != 1:
        return [f"instance_group has {len(fields.instance_group)} entries: {allowed}"]
    set_here = [field.name for field, _ in fields.instance_group[0].ListFields()]
    return [f"instance_group.{name} is refused: {allowed}" for name in set_here if name not in _OF_INSTANCE_GROUP]
