"""Stage 1, relations: how far a feature is from what the others say that it should be."""

import torch
from torch import Tensor, nn

from stream_ad.detector.imputation import mean_and_precision
from stream_ad.detector.products import linear

ROWS_FOR_EACH = 10
"""With fewer rows for each feature the covariance is shrunk."""


class Relations(nn.Module):
    """The largest deviation of a feature from its mean given the others, in its spread given the others.

    Two thermometers in one pipe differ by next to nothing whatever the temperature. To all other stages, which know
    the units of the single sensor, a difference of half a spread is small; here it is hundreds of what is usual.
    Deviations are those of the Gaussian of the inliers, with its precision matrix P: ((a - mean) P)_j / sqrt(P_jj).
    """

    centre: Tensor
    pull: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("pull", torch.eye(n_features))

    def fit(self, a: Tensor) -> None:
        """Learn from A [n, d] without NaN."""
        n, d = a.shape
        shrinkage = min(0.5, 0.5 * d / n) if n < ROWS_FOR_EACH * d else 0.0
        centre, precision = mean_and_precision(a, shrinkage, 1e-9)
        self.centre.copy_(centre)
        self.pull.copy_(precision / torch.diagonal(precision).sqrt())

    def forward(self, a: Tensor, missing: Tensor) -> Tensor:
        """A [n, d] without gaps and what was missing of it [n, d] -> log(1 + square of the largest deviation) [n]."""
        deviation = linear(a - self.centre, self.pull.t())
        largest = deviation.abs().masked_fill(missing, 0.0).amax(dim=1)
        return torch.log(1.0 + largest * largest)
