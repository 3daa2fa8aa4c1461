"""Stage 2, the second-level variational autoencoder: a latent distribution for each inlier."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_ad.detector.draws import Draws
from stream_ad.detector.products import Linear


class VariationalAutoencoder(nn.Module):
    """fused -> q(z|x) = N(mu, sigma^2) over a small latent space -> fused (Kingma and Welling 2014)."""

    def __init__(self, size: int, width: int, latent_size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Linear(size, width), nn.SiLU())
        self.mu = Linear(width, latent_size)
        self.log_variance = Linear(width, latent_size)
        self.decoder = nn.Sequential(Linear(latent_size, width), nn.SiLU(), Linear(width, size))

    def encode(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """fused [n, s] -> mu [n, z], log-variance [n, z]."""
        hidden = self.body(fused)
        return self.mu(hidden), self.log_variance(hidden).clamp(-8.0, 4.0)

    def decode(self, z: Tensor) -> Tensor:
        """[n, z] -> fused [n, s]."""
        fused: Tensor = self.decoder(z)
        return fused

    def loss(self, fused: Tensor, draws: Draws) -> Tensor:
        """0.5 MSE + 0.02 KL: the evidence lower bound with little weight on the prior, so that the posterior
        keeps what sets rows apart."""
        mu, log_variance = self.encode(fused)
        eps = draws.normal(mu.shape[0], mu.shape[1])
        reconstruction = self.decode(mu + torch.exp(0.5 * log_variance) * eps)
        return 0.5 * F.mse_loss(reconstruction, fused) + 0.02 * divergence(mu, log_variance).mean()


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of each row, [n]."""
    return 0.5 * (mu * mu + torch.exp(log_variance) - 1.0 - log_variance).sum(dim=1)
