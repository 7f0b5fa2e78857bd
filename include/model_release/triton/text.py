"""The text of config.pbtxt and what names it: the parameter `release_digest`, by which a replica proves its config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from model_release.errors import BadModelConfig

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
RELEASE_DIGEST = "release_digest"


def release_digest(config: ModelConfig) -> str:
    """Return the sha256 of the canonical config: JSON with sorted keys, without the digest itself and defaults."""
    from google.protobuf import json_format

    fields = json_format.MessageToDict(config, preserving_proto_field_name=True)
    parameters = {name: value for name, value in fields.pop("parameters", {}).items() if name != RELEASE_DIGEST}
    canonical = json.dumps({**fields, "parameters": parameters}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def render(config: ModelConfig, epoch: int) -> str:
    """Return the text of config.pbtxt; the first line is the epoch that wrote it, which Triton does not read."""
    from google.protobuf import text_format

    return f"# epoch={epoch}\n{text_format.MessageToString(config)}"


def parse(text: str) -> ModelConfig:
    """
    Read what `render` wrote.

    Raises BadModelConfig when it is no config that Triton could read.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise BadModelConfig(CONFIG_FILE, [" ".join(str(error).split())]) from None


def disabled(config: ModelConfig) -> ModelConfig:
    """Return the config that serves no version: a newborn replica skips the model."""
    return naming(config, [])


def naming(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """Return the config that serves other versions."""
    from tritonclient.grpc import model_config_pb2 as pb

    other = pb.ModelConfig()
    other.CopyFrom(config)
    other.version_policy.specific.ClearField("versions")
    other.version_policy.specific.SetInParent()
    other.version_policy.specific.versions.extend(versions)
    other.parameters[RELEASE_DIGEST].string_value = release_digest(other)
    return other
