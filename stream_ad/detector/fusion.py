"""Fusion: the codes that the second level learns over, side by side and on one scale."""

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Concatenates codes and standardises them; clamped, so that a wild row cannot leave the region in which the
    second level is defined."""

    mean: Tensor
    scale: Tensor

    def __init__(self, codes: int, code_size: int) -> None:
        super().__init__()
        self.code_size = code_size
        self.register_buffer("mean", torch.zeros(codes * code_size))
        self.register_buffer("scale", torch.ones(codes * code_size))

    def fit(self, codes: list[Tensor]) -> None:
        fused = torch.cat(codes, dim=1)
        self.mean.copy_(fused.mean(dim=0))
        self.scale.copy_(fused.std(dim=0, correction=0) + 1e-3)

    def forward(self, codes: list[Tensor]) -> Tensor:
        """k codes, each [n, c] -> fused [n, k c]."""
        fused = (torch.cat(codes, dim=1) - self.mean) / self.scale
        return fused.clamp(-10.0, 10.0)

    def inverse(self, fused: Tensor) -> tuple[Tensor, ...]:
        """[n, k c] -> the k codes, each [n, c]."""
        codes: tuple[Tensor, ...] = (fused * self.scale + self.mean).split(self.code_size, dim=1)
        return codes
