"""Code-book: prototypes of the inliers, for what is near to none of them."""

import torch
from torch import Tensor, nn

from stream_ad.detector.draws import Draws

GROUPS = 4


class CodeBook(nn.Module):
    """Distances of a row to its nearest prototype, over all and averaged over four groups.

    Prototypes are rows of the window, or centroids where there are many rows. Fails on data with more small
    modes than prototypes.
    """

    prototypes: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.groups = GROUPS
        self.register_buffer("prototypes", torch.zeros(count, size))

    def fit(self, points: Tensor, draws: Draws) -> None:
        """Choose prototypes among points [n, s]; needs as many points as prototypes at least."""
        count = self.prototypes.shape[0]
        self.prototypes.copy_(points[draws.permutation(points.shape[0])[:count]])
        if points.shape[0] <= 8 * count:
            return
        for _ in range(6):
            parts = points.split(4096)
            closest = torch.cat([relative_distances(part, self.prototypes).argmin(dim=1) for part in parts])
            total = torch.zeros_like(self.prototypes).index_add_(0, closest, points)
            members = torch.bincount(closest, minlength=count)[:, None]
            self.prototypes.copy_(torch.where(members > 0, total / members.clamp(min=1), self.prototypes))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points [n, s] -> nearest distance [n], mean over groups of the nearest distance [n]."""
        members = self.prototypes.shape[0] // self.groups
        distance = relative_distances(points, self.prototypes)
        minima = distance.reshape(points.shape[0], self.groups, members).amin(dim=2)
        minima = (minima + points.pow(2).sum(dim=1, keepdim=True)).clamp(min=0.0).sqrt()
        return minima.amin(dim=1), minima.mean(dim=1)


def relative_distances(points: Tensor, prototypes: Tensor) -> Tensor:
    """[n, s], [k, s] -> squared Euclidean distances less the point's own square, which does not change the order.
    [n, k]"""
    return torch.addmm(prototypes.pow(2).sum(dim=1), points, prototypes.T, alpha=-2.0)
