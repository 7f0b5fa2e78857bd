"""The factory of the example `embedding_model`: a sentence becomes a vector of length 1 (all-MiniLM-L6-v2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import BertModel

DIMENSION = 384
LAYERS = 6


class SentenceEncoder(nn.Module):
    """MiniLM's encoder, the mean of its tokens' vectors, and their direction."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return [B, 384] of norm 1 for token ids [B, S] and their 0/1 mask [B, S]; masked tokens count for nothing."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


def build(layers: int = LAYERS) -> SentenceEncoder:
    """Return the encoder without its weights; nothing is downloaded."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522,
        hidden_size=DIMENSION,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    return SentenceEncoder(BertModel(config, add_pooling_layer=False))
