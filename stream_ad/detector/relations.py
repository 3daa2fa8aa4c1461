"""Stage 1, relations: how far a feature is from what the others say that it should be."""

import torch
from torch import Tensor, nn

from stream_ad.detector.descriptors import soft_clip_inverse
from stream_ad.detector.imputation import ConditionalMean, mean_and_precision
from stream_ad.detector.products import linear

ROWS_FOR_EACH = 10
"""With fewer rows for each feature the covariance is shrunk."""
CLOSE = 1e-6
"""Share of the mean variance: close relations hold to a thousandth of a spread, as between a total and its parts, or
two sensors of one thing."""
UNCLIPPED = 4.0
"""Spreads up to which `soft_clip` leaves a value as it is."""


class Relations(nn.Module):
    """The largest deviation of a feature from its mean given the others, in its spread given the others.

    Two thermometers in one pipe differ by next to nothing whatever the temperature. To all other stages, which know
    the units of the single sensor, a difference of half a spread is small; here it is hundreds of what is usual.
    Deviations are those of the Gaussian of the inliers, with its precision matrix P: ((a - mean) P)_j / sqrt(P_jj).

    They are taken twice. Loosely, as if no relation were closer than a thirtieth of a spread, or else a feature that
    follows from some others, as a mean from its values, would say nothing of its relation to the rest. And closely:
    then of values before they are softly clipped, since what adds up does so far out, too, and with the few gaps that
    a row may have filled in as closely.
    """

    centre: Tensor
    pull: Tensor
    close_spread: Tensor
    varies: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("pull", torch.eye(n_features))
        # Of close relations float32 would leave little in the differences.
        self.close = ConditionalMean(n_features).double()
        self.register_buffer("close_spread", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("varies", torch.ones(n_features, dtype=torch.bool))
        self.most_gaps = self.close.steps // 2

    def fit(self, a: Tensor) -> None:
        """Learn from A [n, d] without NaN."""
        n, d = a.shape
        shrinkage = min(0.5, 0.5 * d / n) if n < ROWS_FOR_EACH * d else 0.0
        centre, precision = mean_and_precision(a, shrinkage, 1e-9)
        self.centre.copy_(centre)
        self.pull.copy_(precision / torch.diagonal(precision).sqrt())
        self.varies.copy_((a != a[0]).any(dim=0))
        inside = a[(a.abs() <= UNCLIPPED).all(dim=1)]
        if len(inside) >= max(n / 2, ROWS_FOR_EACH * d):
            centre, precision = mean_and_precision(inside, 0.0, 1e-9, CLOSE)
            self.close.centre.copy_(centre)
            self.close.precision.copy_(precision)
            self.close_spread.copy_(1.0 / torch.diagonal(precision).sqrt())

    def forward(self, a: Tensor, missing: Tensor) -> Tensor:
        """A [n, d] without gaps and what was missing of it [n, d] -> log(1 + square of the largest deviation) [n]."""
        loose = linear(a - self.centre, self.pull.t()).abs().masked_fill(missing, 0.0)
        gap = missing & self.varies
        near = self.close(torch.where(gap, torch.nan, soft_clip_inverse(a).to(torch.float64)))
        close = linear(near - self.close.centre, self.close.precision.t()).abs() * self.close_spread
        close = close.masked_fill(missing | (gap.sum(dim=1, keepdim=True) > self.most_gaps), 0.0)
        largest = torch.maximum(loose, close.to(a.dtype)).amax(dim=1)
        return torch.log(1.0 + largest * largest)
