"""A small character-level language model: torch's transformer blocks with a causal mask."""

import torch
from torch import Tensor, nn

from common.errors import UsageError

INITIAL = 0.02  # standard deviation of initial embeddings and matrices (Radford et al. 2019)


class Transformer(nn.Module):
    """`depth` pre-norm blocks of 32 `width` dimensions, heads of 32; learned position embeddings.

    Input: (batch, n) int64 in [0, symbols), n <= length. Output: (batch, n, symbols) logits of the symbol after each position.
    Raises UsageError where depth or width < 1.
    """

    mask: Tensor

    def __init__(self, symbols: int, length: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        if min(depth, width) < 1:
            raise UsageError(f"a transformer has a depth and a width of at least 1, not {depth} and {width}")
        size = 32 * width
        self.symbol = nn.Embedding(symbols, size)
        self.place = nn.Embedding(length, size)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(size, width, 4 * size, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, symbols)
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).triu(1), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=INITIAL)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next symbols, causal: those of a position depend on it and earlier positions only."""
        length = x.shape[1]
        y = self.symbol(x) + self.place.weight[:length]
        for block in self.blocks:
            y = block(y, src_mask=self.mask[:length, :length], is_causal=True)
        return self.head(self.norm(y))
