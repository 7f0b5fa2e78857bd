"""The exporters' own chatter, kept from the reader: what goes wrong comes as an exception."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NOISY = ("torch", "torch.onnx", "onnxscript", "onnx_ir", "onnxruntime")


@contextmanager
def silence() -> Iterator[None]:
    """Let neither warnings nor log lines through."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
