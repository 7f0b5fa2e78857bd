"""
The first part of `ensemble_pipeline`, for Triton's Python backend: texts to token ids.

Input `text` string [batch]; output `input_ids` int64 [batch, tokens].
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from text_tokens import tokenized


class TritonPythonModel:
    """The tokenizer that the classifier was trained with: the very same file."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: its texts are padded to its own longest one."""
        return [self._answer(request) for request in requests]

    @staticmethod
    def _answer(request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        ids = tokenized([text.decode(errors="replace") for text in texts.ravel()])
        return pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids)])
