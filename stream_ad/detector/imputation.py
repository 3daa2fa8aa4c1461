"""Missing features are filled in from the other features of the row."""

import torch
from torch import Tensor, nn

from stream_ad.detector.products import linear

RIDGE = 1e-3
"""Of the mean variance: relations that are closer than a thirtieth of a spread count as that close."""


class ConditionalMean(nn.Module):
    """The mean of the missing features given the present ones, under the Gaussian of the inliers.

    With precision matrix P, the missing part m of a row solves P_mm a_m = -P_mo a_o; a fixed number of
    conjugate-gradient steps does it for any pattern of missing features at once, feed-forward.
    Exact for linear dependence; where features hang together otherwise it is the best linear guess.
    """

    centre: Tensor
    precision: Tensor

    def __init__(self, n_features: int, steps: int = 12) -> None:
        super().__init__()
        self.steps = min(steps, n_features)
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("precision", torch.eye(n_features))

    def fit(self, a: Tensor, rounds: int = 4) -> Tensor:
        """Learn from A [n, d] with NaN for missing; return A with the gaps filled.

        Filling and estimating take turns, as in expectation-maximisation; without gaps one round is all.
        """
        missing = torch.isnan(a)
        for _ in range(rounds if bool(missing.any()) else 1):
            filled = self(a)
            self._estimate(filled)
        filled_in: Tensor = self(a)
        return filled_in

    def _estimate(self, a: Tensor) -> None:
        n, d = a.shape
        centre, precision = mean_and_precision(a, min(0.5, 0.5 * d / max(n, 1)), 1e-6)
        self.centre.copy_(centre)
        self.precision.copy_(precision)

    def forward(self, a: Tensor) -> Tensor:
        """A [n, d] with NaN -> A [n, d] without; rows without a gap pass unchanged."""
        missing = torch.isnan(a)
        # Only rows with a gap pay for the solver.
        rows = torch.nonzero(missing.any(dim=1)).flatten()
        if not torch.compiler.is_compiling() and rows.shape[0] == 0:
            return a
        gaps = missing[rows].to(a.dtype)
        known = torch.nan_to_num(a[rows] - self.centre) * (1.0 - gaps)
        residual = -linear(known, self.precision.t()) * gaps
        found = torch.zeros_like(known)
        # Jacobi preconditioning: features may differ widely in how well the others explain them.
        inverse_diagonal = 1.0 / torch.diagonal(self.precision)
        z = residual * inverse_diagonal
        direction = z
        weight = (residual * z).sum(dim=1, keepdim=True)
        steps = self.steps
        if not torch.compiler.is_compiling():
            # As many as gaps would do but for rounding.
            steps = min(steps, 2 * int(gaps.sum(dim=1).max()))
        for _ in range(steps):
            image = linear(direction, self.precision.t()) * gaps
            step = weight / ((direction * image).sum(dim=1, keepdim=True) + 1e-20)
            found = found + step * direction
            residual = residual - step * image
            z = residual * inverse_diagonal
            following = (residual * z).sum(dim=1, keepdim=True)
            direction = z + following / (weight + 1e-20) * direction
            weight = following
        filled = a.clone()
        filled[rows] = torch.where(missing[rows], self.centre + found, a[rows])
        return filled

    def surprise(self, a: Tensor) -> Tensor:
        """How far each feature is from its mean given the others, in squared conditional spreads.

        A [n, d] without NaN -> [n, d]. This is what the squared Mahalanobis distance would lose if the
        feature were not known.
        """
        pull = (a - self.centre) @ self.precision
        return pull * pull / torch.diagonal(self.precision)


def mean_and_precision(a: Tensor, shrinkage: float, least: float, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Mean [d] and precision matrix [d, d] of A [n, d] without NaN, float64.

    With few rows for each feature the covariance has to shrink towards its diagonal, or its inverse is noise. In any
    case the diagonal gets a share of the mean variance, the `ridge`, and a `least` variance.
    """
    a64 = a.to(torch.float64)
    centre = a64.mean(dim=0)
    covariance = (a64 - centre).T @ (a64 - centre) / max(1, a.shape[0] - 1)
    variance = torch.diagonal(covariance)
    shrunk = (1.0 - shrinkage) * covariance + torch.diag(shrinkage * variance + ridge * variance.mean() + least)
    return centre, torch.linalg.inv(shrunk)
