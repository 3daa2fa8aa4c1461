"""Stage 1, first-level autoencoders: each distils one descriptor of the inliers."""

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """A denoising autoencoder d -> width -> code -> width -> d with SiLU between."""

    def __init__(self, n_features: int, width: int, code_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_features, width), nn.SiLU(), nn.Linear(width, code_size))
        self.decoder = nn.Sequential(nn.Linear(code_size, width), nn.SiLU(), nn.Linear(width, n_features))

    def encode(self, descriptor: Tensor) -> Tensor:
        """[n, d] -> codes [n, code]."""
        code: Tensor = self.encoder(descriptor)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """[n, code] -> reconstruction [n, d]."""
        reconstruction: Tensor = self.decoder(code)
        return reconstruction


def corrupt(descriptor: Tensor, generator: torch.Generator) -> Tensor:
    """What a denoising autoencoder is shown: noise of a strength drawn for each row, and for half of the rows
    a share of the features, drawn for each row too, set to zero. [n, d] -> [n, d]."""
    n = descriptor.shape[0]
    kind = {"device": descriptor.device, "generator": generator}
    strength = 0.5 * torch.rand(n, 1, **kind)
    noisy = descriptor + strength * torch.randn(descriptor.shape, **kind)
    share = 0.6 * torch.rand(n, 1, **kind) * (torch.rand(n, 1, **kind) < 0.5)
    return noisy * (torch.rand(descriptor.shape, **kind) >= share)
