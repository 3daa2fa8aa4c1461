"""Code-book: prototypes of the inliers, for what is near to none of them."""

import torch
from torch import Tensor, nn

from stream_ad.detector.draws import Draws

GROUPS = 4
AT_ONCE = 512
"""Points whose distances are computed at once: more would not stay in the processor's caches."""


class CodeBook(nn.Module):
    """Distances of a row to its nearest prototype, over all and averaged over four groups.

    Prototypes are rows of the window, or centroids where there are many rows. Fails on data with more small
    modes than prototypes.
    """

    prototypes: Tensor
    table: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.groups = GROUPS
        self.at_once = AT_ONCE
        self.register_buffer("prototypes", torch.zeros(count, size))
        self.register_buffer("table", torch.zeros(size + 1, count))

    def fit(self, points: Tensor, draws: Draws) -> None:
        """Choose prototypes among points [n, s]; needs as many points as prototypes at least."""
        count = self.prototypes.shape[0]
        self.set(points[draws.permutation(points.shape[0])[:count]])
        if points.shape[0] <= 8 * count:
            return
        for _ in range(6):
            closest = torch.cat([self.closeness(part).argmax(dim=1) for part in points.split(self.at_once)])
            total = torch.zeros_like(self.prototypes).index_add_(0, closest, points)
            members = torch.bincount(closest, minlength=count)[:, None]
            self.set(torch.where(members > 0, total / members.clamp(min=1), self.prototypes))

    def set(self, prototypes: Tensor) -> None:
        self.prototypes.copy_(prototypes)
        self.table.copy_(torch.cat([prototypes, -0.5 * prototypes.pow(2).sum(dim=1, keepdim=True)], dim=1).T)

    def closeness(self, points: Tensor) -> Tensor:
        """[n, s] -> for each prototype minus half its squared Euclidean distance, but for what the point's own length
        adds to all alike. [n, k]"""
        return torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ self.table

    def closest_by_group(self, points: Tensor) -> Tensor:
        """The largest `closeness` of points [n, s] in each group of prototypes [n, g]."""
        members = self.prototypes.shape[0] // self.groups
        return self.closeness(points).reshape(points.shape[0], self.groups, members).amax(dim=2)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points [n, s] -> nearest distance [n], mean over groups of the nearest distance [n]."""
        if torch.compiler.is_compiling():
            # torch.export takes no loop whose length depends on the batch.
            closest = self.closest_by_group(points)
        else:
            closest = torch.cat([self.closest_by_group(part) for part in points.split(self.at_once)])
        squared = points.pow(2).sum(dim=1, keepdim=True) - 2.0 * closest
        distance = squared.clamp(min=0.0).sqrt()
        return distance.amin(dim=1), distance.mean(dim=1)
