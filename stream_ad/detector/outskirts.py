"""Outskirts: which latent distributions of the training data become generators of outliers."""

import torch
from torch import Tensor, nn

LEAST_VARIANCE = 1e-3
"""Of posterior means that hardly differ from each other the distance must not be made of rounding errors."""


class LatentSpread(nn.Module):
    """Mean and covariance of the training rows' posterior means: what 'far out' is measured by."""

    mean: Tensor
    precision: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_size))
        self.register_buffer("precision", torch.eye(latent_size))

    def fit(self, mu: Tensor) -> None:
        mu64 = mu.to(torch.float64)
        mean = mu64.mean(dim=0)
        covariance = (mu64 - mean).T @ (mu64 - mean) / max(1, mu.shape[0] - 1)
        ridge = 1e-3 * torch.diagonal(covariance).mean() + LEAST_VARIANCE
        identity = torch.eye(mu.shape[1], dtype=torch.float64, device=mu.device)
        self.mean.copy_(mean)
        self.precision.copy_(torch.linalg.inv(covariance + ridge * identity))

    def forward(self, mu: Tensor) -> Tensor:
        """mu [n, z] -> squared Mahalanobis distance [n]."""
        offset = mu - self.mean
        return ((offset @ self.precision) * offset).sum(dim=1)


def select_outskirts(distance: Tensor, share: float) -> Tensor:
    """Indices of the `share` of training rows with the largest distance [n], one at least."""
    count = max(1, round(share * distance.shape[0]))
    return torch.topk(distance, count).indices
