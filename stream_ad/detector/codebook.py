"""Code-book: prototypes of the inliers, for what is near to none of them, or not as near as they are to each other."""

import torch
from torch import Tensor, nn

from stream_ad.detector.draws import Draws
from stream_ad.detector.products import linear

GROUPS = 4
NEIGHBOURS = 5
LANES = 64
"""Prototypes are dealt out to so many lanes, and of each lane the nearest one counts."""
AT_ONCE = 512
"""Points whose distances are computed at once: more would not stay in the processor's caches."""
NOWHERE = -1e30
"""Closeness of a prototype that is none."""
LEAST_SPACING = 1e-3
"""Distances below this are rounding errors."""
MOST_RELATIVE = 10.0
"""Beyond this the relative distance tells nothing more: of two rows far out it may be the smaller for the farther."""


class CodeBook(nn.Module):
    """How far a row is from its nearest prototypes, and how far for their neighbourhood.

    Prototypes are rows of the window, or centroids where there are many rows. The relative distance is that of the
    local outlier factor (Breunig et al., SIGMOD 2000), computed on the prototypes alone: where inliers lie dense, a
    small step away from them is strange already, and where they are sparse, a large one is not yet. Fails on data with
    more small modes than prototypes.
    """

    table: Tensor
    spacing: Tensor
    usual: Tensor
    least_spacing: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.count = count
        self.neighbours = min(NEIGHBOURS, count - 1)
        self.groups = GROUPS
        self.lanes = LANES
        self.a_lane = (count + LANES - 1) // LANES
        self.at_once = AT_ONCE
        self.most_relative = MOST_RELATIVE
        self.register_buffer("table", torch.zeros(size + 1, self.a_lane * LANES))
        self.register_buffer("spacing", torch.zeros(self.a_lane * LANES))
        # See `usual_by_kind`.
        self.register_buffer("usual", torch.zeros(self.a_lane * LANES))
        self.register_buffer("least_spacing", torch.tensor(LEAST_SPACING))

    def fit(self, points: Tensor, draws: Draws) -> None:
        """Choose prototypes among points [n, s]; needs as many points as prototypes at least."""
        prototypes = points[draws.permutation(points.shape[0])[: self.count]]
        self._place(prototypes)
        if points.shape[0] > 8 * self.count:
            for _ in range(6):
                prototypes = centroids(points, self.nearest_number(points), prototypes)
                self._place(prototypes)
        numbers = torch.arange(self.count, device=points.device)
        spacing = []
        for part, own in zip(prototypes.split(self.at_once), numbers.split(self.at_once), strict=True):
            others = self.closeness(part).scatter(1, own[:, None], NOWHERE)
            spacing.append(distance(part, others.topk(self.neighbours, dim=1).values).mean(dim=1))
        self.spacing[: self.count] = torch.cat(spacing)
        self.least_spacing.copy_(LEAST_SPACING + 0.02 * self.spacing[: self.count].median())

    def _place(self, prototypes: Tensor) -> None:
        self.table[-1] = NOWHERE
        rows = torch.cat([prototypes, -0.5 * prototypes.pow(2).sum(dim=1, keepdim=True)], dim=1)
        self.table[:, : self.count] = rows.T

    def prototypes(self) -> Tensor:
        """All of them [k, s]."""
        return self.table[:-1, : self.count].t()

    def closeness(self, points: Tensor) -> Tensor:
        """[n, s] -> for each prototype minus half its squared Euclidean distance, but for what the point's own length
        adds to all alike. [n, k]"""
        return linear(points, self.table[:-1].t(), self.table[-1])

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """points [n, s] -> nearest distance [n], mean over four groups of prototypes of the nearest distance [n], mean
        distance of the five nearest prototypes over that from each of these to its own five nearest, 10 at most [n],
        and how far above that of most rows the raw score usually is around the nearest [n]."""
        if torch.compiler.is_compiling():
            # torch.export takes no loop whose length depends on the batch.
            found = self.search(points)
        else:
            found = torch.cat([self.search(part) for part in points.split(self.at_once)])
        away = distance(points, found[:, 2:])
        near, by_group = away[:, : self.neighbours], away[:, self.neighbours :].mean(dim=1)
        relative = (near.mean(dim=1) + self.least_spacing) / (found[:, 0] + self.least_spacing)
        return near[:, 0], by_group, relative.clamp(max=self.most_relative), found[:, 1]

    def nearest_number(self, points: Tensor) -> Tensor:
        """points [n, s] -> the number of the prototype that is nearest to each [n]."""
        return torch.cat([self.closeness(part).argmax(dim=1) for part in points.split(self.at_once)])

    def nearest(self, points: Tensor) -> Tensor:
        """points [n, s] -> the nearest prototype of each [n, s]."""
        return self.prototypes()[self.closeness(points).argmax(dim=1)]

    def to_nearest(self, points: Tensor) -> Tensor:
        """points [n, s] -> distance from the nearest prototype of each [n]."""
        return distance(points, self.closeness(points).amax(dim=1, keepdim=True))[:, 0]

    def search(self, points: Tensor) -> Tensor:
        """points [n, s], all at once -> mean spacing of the five nearest prototypes, what is usual around the nearest,
        closeness of the five, and that of the nearest of each group, side by side [n, 11]."""
        n = points.shape[0]
        closeness = self.closeness(points).reshape(n, self.a_lane, self.lanes)
        # To sort out lanes first is several times faster, and two of the nearest seldom share one.
        in_lane = closeness.amax(dim=1)
        in_group = in_lane.reshape(n, self.lanes // self.groups, self.groups).amax(dim=1)
        lane = torch.topk(in_lane, self.neighbours, dim=1).indices
        closest, place = closeness.gather(2, lane[:, None].expand(-1, self.a_lane, -1)).max(dim=1)
        number = place * self.lanes + lane
        around = self.spacing[number].mean(dim=1, keepdim=True)
        return torch.cat([around, self.usual[number[:, :1]], closest, in_group], dim=1)


def centroids(points: Tensor, closest: Tensor, centres: Tensor) -> Tensor:
    """A step of Lloyd's: the mean of the points [n, s] of which each of the centres [k, s] is the `closest` [n], or
    itself if it is that of none."""
    total = torch.zeros_like(centres).index_add_(0, closest, points)
    members = torch.bincount(closest, minlength=centres.shape[0])[:, None]
    return torch.where(members > 0, total / members.clamp(min=1), centres)


def distance(points: Tensor, closeness: Tensor) -> Tensor:
    """Distances of points [n, s] from prototypes of this `CodeBook.closeness` [n, k]; those below what rounding leaves
    of the difference are 0, so that a row is as near to its copy in every batch."""
    length = points.pow(2).sum(dim=1, keepdim=True)
    squared = length - 2.0 * closeness
    return torch.where(squared > 2e-6 * length, squared, 0.0).sqrt()
