"""Synthesis: outliers made from the outskirts, without one real outlier."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_ad.detector.autoencoder import Autoencoder
from stream_ad.detector.descriptors import Whiten
from stream_ad.detector.draws import Draws
from stream_ad.detector.fusion import Fusion
from stream_ad.detector.vae import VariationalAutoencoder


class Synthesiser:
    """Draws synthetic outliers in V-space from the posteriors of the outskirts.

    z = mu + push (mu - mean mu) + s sigma eps is decoded down the hierarchy. Half of the outliers are such
    samples as they are (`outside`); the other half are training rows in which a random part of the features
    is overwritten by those of a sample (`substitute`): plausible values that do not belong together.
    """

    def __init__(
        self,
        whiten: Whiten,
        autoencoder_v: Autoencoder,
        autoencoder_w: Autoencoder,
        fusion: Fusion,
        vae: VariationalAutoencoder,
        mu: Tensor,
        log_variance: Tensor,
        centre: Tensor,
    ) -> None:
        """mu and log_variance [k, z] are the posteriors of the outskirts, centre [z] the mean of all mu."""
        self.whiten = whiten
        self.autoencoder_v = autoencoder_v
        self.autoencoder_w = autoencoder_w
        self.fusion = fusion
        self.vae = vae
        self.mu = mu
        self.sigma = torch.exp(0.5 * log_variance)
        self.centre = centre

    def decode(self, z: Tensor) -> Tensor:
        """Latent [n, z] -> V [n, 2d]; of A the mean of what both autoencoders decode, where both codes are fused."""
        codes = self.fusion.inverse(self.vae.decode(z))
        decoded: Tensor = self.autoencoder_v.decode(codes[0])
        if len(codes) == 1:
            return decoded
        from_w = self.whiten.inverse(self.autoencoder_w.decode(codes[1]))
        d = from_w.shape[1]
        return torch.cat([0.5 * (decoded[:, :d] + from_w), decoded[:, d:]], dim=1)

    def outside(self, count: int, draws: Draws) -> Tensor:
        """`count` decoded samples, pushed outwards by up to once their distance. [count, 2d]"""
        pick = draws.rows(self.mu.shape[0], count)
        u = draws.uniform(count, 1)
        eps = draws.normal(count, self.mu.shape[1])
        mu, sigma = self.mu[pick], self.sigma[pick]
        z = mu + u * (mu - self.centre) + (1.0 + 3.0 * u) * sigma * eps
        return self.decode(z).clamp(-12.0, 12.0)

    def substitute(self, count: int, inliers: Tensor, draws: Draws) -> Tensor:
        """`count` rows of `inliers` [n, 2d], a random part of the features of each overwritten by an outside
        sample. [count, 2d]"""
        n, d = inliers.shape[0], inliers.shape[1] // 2
        rows = inliers[draws.rows(n, count)]
        share = 0.05 + 0.6 * draws.uniform(count, 1)
        chosen = draws.uniform(count, d) < share
        chosen.scatter_(1, draws.rows(d, count, 1), True)
        # A feature's place in A and its place in R go together.
        return torch.where(torch.cat([chosen, chosen], dim=1), self.outside(count, draws), rows)
