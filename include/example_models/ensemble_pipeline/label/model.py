"""
The last part of `ensemble_pipeline`, for Triton's Python backend: logits to a label and its score.

Input `logits` float32 [batch, 3]; outputs `label` string [batch], and `score` float32 [batch], the label's probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from text_tokens import LABELS


class TritonPythonModel:
    """A softmax, and the name of the largest."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return [self._answer(request) for request in requests]

    @staticmethod
    def _answer(request: Any) -> Any:
        logits = pb_utils.get_input_tensor_by_name(request, "logits").as_numpy().astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        labels = np.array([LABELS[place].encode() for place in logits.argmax(axis=1)], object)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("label", labels), pb_utils.Tensor("score", shares.max(axis=1).astype(np.float32))]
        )
