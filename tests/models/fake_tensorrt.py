"""
A stand-in for the package tensorrt, which needs a GPU: as much of its Python API as an engine's build calls.

It builds nothing. Its engine is JSON of what was asked, and a call that the real package does not have is an error. It
was never held against the real one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_SOURCE = """
import json
from enum import IntEnum

__version__ = "10.13.0"
FAULT = {fault!r}
ASKED = {{"cleared": [], "shapes": {{}}}}


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    TF32 = 7


class Logger:
    WARNING = 2

    def __init__(self, severity):
        assert severity == self.WARNING


class Network:
    pass


class Profile:
    def set_shape(self, name, min, opt, max):
        assert len(min) == len(opt) == len(max)
        assert all(low <= usual <= high for low, usual, high in zip(min, opt, max))
        ASKED["shapes"][name] = [min, opt, max]


class Config:
    def clear_flag(self, flag):
        ASKED["cleared"].append(BuilderFlag(flag).name)

    def add_optimization_profile(self, profile):
        assert isinstance(profile, Profile)
        return 0


class Builder:
    def __init__(self, logger):
        assert isinstance(logger, Logger)

    def create_network(self, flags=0):
        ASKED["network_flags"] = [flag.name for flag in NetworkDefinitionCreationFlag if flags & 1 << flag]
        return Network()

    def create_optimization_profile(self):
        return Profile()

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        assert isinstance(network, Network) and isinstance(config, Config)
        return None if FAULT == "build" else memoryview(json.dumps(ASKED).encode())


class OnnxParser:
    def __init__(self, network, logger):
        assert isinstance(network, Network) and isinstance(logger, Logger)

    def parse_from_file(self, path):
        ASKED["read"] = path
        return FAULT != "parse"

    @property
    def num_errors(self):
        return 2

    def get_error(self, index):
        return ["node 3 (NonZero) is not supported", "node 7 (Loop) is not supported"][index]
"""


def installed(folder: Path, patch: pytest.MonkeyPatch, fault: str = "") -> None:
    """Have `import tensorrt` find it, in child processes too; `fault` is what it cannot do: parse, build."""
    folder.mkdir()
    (folder / "tensorrt.py").write_text(_SOURCE.format(fault=fault))
    patch.syspath_prepend(str(folder))
