"""Stage 1, first-level autoencoders: each distils one descriptor of the inliers."""

from torch import Tensor, nn

from stream_ad.detector.draws import Draws
from stream_ad.detector.products import Linear


class Autoencoder(nn.Module):
    """A denoising autoencoder d -> width -> code -> width -> d with SiLU between."""

    def __init__(self, n_features: int, width: int, code_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Linear(n_features, width), nn.SiLU(), Linear(width, code_size))
        self.decoder = nn.Sequential(Linear(code_size, width), nn.SiLU(), Linear(width, n_features))

    def encode(self, descriptor: Tensor) -> Tensor:
        """[n, d] -> codes [n, code]."""
        code: Tensor = self.encoder(descriptor)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """[n, code] -> reconstruction [n, d]."""
        reconstruction: Tensor = self.decoder(code)
        return reconstruction


def corrupt(descriptor: Tensor, draws: Draws) -> Tensor:
    """What a denoising autoencoder is shown: noise of a strength drawn for each row, and for half of the rows
    a share of the features, drawn for each row too, set to zero. [n, d] -> [n, d]."""
    n, d = descriptor.shape
    noisy = descriptor + 0.5 * draws.uniform(n, 1) * draws.normal(n, d)
    share = 0.6 * draws.uniform(n, 1) * (draws.uniform(n, 1) < 0.5)
    return noisy * (draws.uniform(n, d) >= share)
