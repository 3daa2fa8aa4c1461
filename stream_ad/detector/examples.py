"""Examples: labelled anomalies, and how much nearer a row is to one of them than to any inlier."""

import torch
from torch import Tensor, nn

MOST_EXAMPLES = 1024
CLOSEST = 1e-3
"""Distances below this are as good as none."""


class Examples(nn.Module):
    """Nearest-neighbour classification (Cover and Hart 1967) of a row's position, as the logarithm of a ratio.

    Without a labelled anomaly there is nothing to compute, and all rows get 0.
    """

    positions: Tensor

    def __init__(self, size: int, count: int = 0) -> None:
        super().__init__()
        self.count = count
        self.closest = CLOSEST
        self.register_buffer("positions", torch.zeros(count, size))

    def fit(self, positions: Tensor) -> None:
        """Take positions [k, s] of labelled anomalies; the last `MOST_EXAMPLES` count."""
        self.positions = positions[-MOST_EXAMPLES:]
        self.count = self.positions.shape[0]

    def forward(self, positions: Tensor, nearest_inlier: Tensor) -> Tensor:
        """Positions [n, s] and distance of the nearest inlier [n] -> likeness [n] from -1 to 3; above 0 an example is
        nearer."""
        nearest = torch.cdist(positions, self.positions).amin(dim=1)
        return torch.log((nearest_inlier + self.closest) / (nearest + self.closest)).clamp(-1.0, 3.0)
