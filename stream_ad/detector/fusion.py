"""Fusion: the codes of the first level side by side, on one scale."""

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Concatenates the codes and standardises them; clamped, so that a wild row cannot leave the region in
    which the second level is defined."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, code_a: Tensor, code_w: Tensor) -> None:
        codes = torch.cat([code_a, code_w], dim=1)
        self.mean.copy_(codes.mean(dim=0))
        self.scale.copy_(codes.std(dim=0, correction=0) + 1e-3)

    def forward(self, code_a: Tensor, code_w: Tensor) -> Tensor:
        """Two codes [n, c] -> fused [n, 2c]."""
        fused = (torch.cat([code_a, code_w], dim=1) - self.mean) / self.scale
        return fused.clamp(-10.0, 10.0)

    def inverse(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 2c] -> the two codes [n, c]."""
        codes = fused * self.scale + self.mean
        half = codes.shape[1] // 2
        return codes[:, :half], codes[:, half:]
