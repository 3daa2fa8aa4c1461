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
        self.register_buffer("prototypes", torch.zeros(count, size))

    def fit(self, points: Tensor, draws: Draws) -> Tensor:
        """Choose prototypes among points [n, s]; return their row numbers, -1 where one is no row.

        Needs as many points as prototypes at least.
        """
        count = self.prototypes.shape[0]
        chosen = draws.permutation(points.shape[0])[:count]
        self.prototypes.copy_(points[chosen])
        if points.shape[0] <= 8 * count:
            return chosen
        for _ in range(6):
            closest = distances(points, self.prototypes).argmin(dim=1)
            total = torch.zeros_like(self.prototypes).index_add_(0, closest, points)
            members = torch.bincount(closest, minlength=count)[:, None]
            self.prototypes.copy_(torch.where(members > 0, total / members.clamp(min=1), self.prototypes))
        return torch.full_like(chosen, -1)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points [n, s] -> nearest distance [n], mean over groups of the nearest distance [n]."""
        return nearest(distances(points, self.prototypes))

    def leave_one_out(self, points: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """As forward, on the very points of `fit`: a row is not its own neighbour, unless it has copies."""
        distance = distances(points, self.prototypes)
        own = torch.nonzero(chosen >= 0).flatten()
        rows = chosen[own]
        copies = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
        single = copies[2][copies[1][rows]] == 1
        distance[rows[single], own[single]] = torch.inf
        return nearest(distance)


def distances(points: Tensor, prototypes: Tensor) -> Tensor:
    """[n, s], [k, s] -> Euclidean distances [n, k], as a matrix product whatever n is: the default changes its way
    at 25 rows, which torch.export cannot follow."""
    return torch.cdist(points, prototypes, compute_mode="use_mm_for_euclid_dist")


def nearest(distance: Tensor, groups: int = GROUPS) -> tuple[Tensor, Tensor]:
    """distance [n, k] -> minimum over all [n], mean of the groups' minima [n]."""
    minima = distance.reshape(distance.shape[0], groups, distance.shape[1] // groups).amin(dim=2)
    return minima.amin(dim=1), minima.mean(dim=1)
