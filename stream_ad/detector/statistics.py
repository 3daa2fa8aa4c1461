"""The sixteen statistics of a row, each on one scale: what the hierarchy found strange about it."""

import torch
from torch import Tensor, nn

from stream_ad.detector.pointwise import compress

NAMES = (
    "residual_v_squared",
    "residual_v_absolute",
    "residual_v_largest",
    "residual_w_squared",
    "residual_w_absolute",
    "residual_w_largest",
    "vae_error",
    "latent_distance",
    "latent_divergence",
    "size_v",
    "size_w",
    "rarity_sum",
    "rarity_largest",
    "nearest_prototype",
    "nearest_by_group",
    "relative_distance",
)

ROUNDING = {"vae_error": 1e-4, "latent_distance": 1e-3, "latent_divergence": 1e-3}
"""What rounding alone can make of these in a window of one and the same row; elsewhere they are much larger."""

LEAST = {"rarity_sum": 0.5, "rarity_largest": 0.5}
"""Nats that are no contradiction yet. Where each value follows from the others, as a total from its parts, most rows
have none at all, and next to that the little of those at the edge of a bin would be more than anything else."""


class NormaliseStatistics(nn.Module):
    """log(s + 0.02 median, or what rounding or chance makes if that is more), minus the training median, by half the
    training range of the middle 80 %."""

    offset: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(len(NAMES)))
        self.register_buffer("centre", torch.zeros(len(NAMES)))
        self.register_buffer("scale", torch.ones(len(NAMES)))

    def fit(self, statistics: Tensor) -> None:
        """Learn from the training rows' statistics [n, 16]."""
        self.offset.copy_(0.02 * statistics.median(dim=0).values + 1e-6)
        for name, rounding in ROUNDING.items():
            self.offset[NAMES.index(name)] += rounding
        for name, least in LEAST.items():
            self.offset[NAMES.index(name)].clamp_(min=least)
        logs = torch.log(statistics + self.offset)
        low, middle, high = (torch.quantile(logs, q, dim=0) for q in (0.1, 0.5, 0.9))
        self.centre.copy_(middle)
        # Where nearly all rows are one and the same the range is 0, and any step would be infinitely far out.
        self.scale.copy_((0.5 * (high - low)).clamp(min=0.2))

    def forward(self, statistics: Tensor) -> Tensor:
        """[n, 16] >= 0, larger is stranger -> [n, 16] from -8 on."""
        logs = torch.log(statistics + self.offset)
        return compress(((logs - self.centre) / self.scale).clamp(min=-8.0), 15.0)
