"""Classifier: inliers against synthetic outliers, on the statistics of the hierarchy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_ad.detector.pointwise import celu


class Classifier(nn.Module):
    """Several small networks size -> width -> width -> 1, trained at once as batched products; the mean logit
    counts.

    Each is monotone, its weights taken as absolute values: a row that is stranger in any statistic never looks less
    like an outlier. Synthetic outliers come out of a decoder and are therefore easy to reconstruct; without this a
    classifier learns that what reconstructs well is an outlier.
    """

    def __init__(self, size: int, width: int, networks: int) -> None:
        super().__init__()
        self.weight_1 = nn.Parameter(torch.randn(networks, size, width) * (0.5 / size**0.5))
        self.bias_1 = nn.Parameter(torch.empty(networks, 1, width).uniform_(-4.0, 2.0))
        self.weight_2 = nn.Parameter(torch.randn(networks, width, width) / width)
        self.bias_2 = nn.Parameter(torch.empty(networks, 1, width).uniform_(-1.0, 1.0))
        self.weight_3 = nn.Parameter(torch.randn(networks, width, 1) / width)
        self.bias_3 = nn.Parameter(torch.zeros(networks, 1, 1))

    def logits(self, statistics: Tensor) -> Tensor:
        """[n, size] -> the logit of each network, [networks, n]."""
        same = statistics.expand(self.weight_1.shape[0], -1, -1)
        hidden = celu(torch.baddbmm(self.bias_1, same, self.weight_1.abs()))
        hidden = 2.0 * torch.sigmoid(2.0 * torch.baddbmm(self.bias_2, hidden, self.weight_2.abs())) - 1.0
        return (hidden * self.weight_3.abs().transpose(1, 2)).sum(dim=2) + self.bias_3.squeeze(2)

    def forward(self, statistics: Tensor) -> Tensor:
        """[n, size] -> mean logit [n]; positive is an outlier."""
        return self.logits(statistics).mean(dim=0)

    def loss(self, inliers: Tensor, outliers: Tensor) -> Tensor:
        """Binary cross-entropy of all networks on statistics [b, size] of both kinds."""
        return F.softplus(self.logits(inliers)).mean() + F.softplus(-self.logits(outliers)).mean()
