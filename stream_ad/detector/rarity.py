"""Stage 1, conditional rarity: how much less probable the other features make a value than it is by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_ad.detector.draws import Draws
from stream_ad.detector.pointwise import exp
from stream_ad.detector.products import Linear, batched

QUANTILES = (0.005, 0.05, 0.20, 0.50, 0.80, 0.95, 0.995)
BINS = len(QUANTILES) + 1
GROUPS = 4
MARGINAL_SHARE = 0.02
"""Share of the marginal in each probability, so that one contradiction stays finite."""


class ConditionalRarity(nn.Module):
    """log p(bin of a feature) - log p(bin | the other features), where the others speak against the bin.

    What a value is by itself, rare or not, other stages know, and of features that have nothing to do with the others
    the difference is none: they add no noise to the one that contradicts.

    Each feature of A is cut into bins at its quantiles, or between its values where there are few. The network
    sees the features that are not masked and gives, for those that are, the logits of their bins on top of the
    marginal. It learns on random masks; a row is then judged in four passes, in each of which every fourth
    feature is masked. Missing features are masked throughout, so nothing has to be filled in for it.
    """

    edges: Tensor
    marginal: Tensor

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.groups = GROUPS
        self.marginal_share = MARGINAL_SHARE
        self.members = m = (n_features + GROUPS - 1) // GROUPS
        # What belongs to a bin is laid out with the features side by side: several times faster than bins side by side.
        self.register_buffer("edges", torch.full((GROUPS, 1, (BINS - 1) * m), torch.inf))
        self.register_buffer("marginal", torch.full((GROUPS, 1, BINS, m), 1.0 / BINS))
        reach = (2.0 / (GROUPS * m * BINS)) ** 0.5
        self.from_inputs = nn.Parameter(torch.empty(GROUPS, (BINS + 1) * m, width).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.zeros(width))
        self.hidden = Linear(width, width)
        self.to_bins = nn.Parameter(torch.randn(GROUPS, width, BINS * m) * (0.3 / width**0.5))

    def fit_bins(self, a: Tensor) -> None:
        """Learn edges and marginals of the bins from A [n, d] without NaN."""
        wanted = torch.tensor(QUANTILES, device=a.device)
        by_bin = self.edges.view(self.groups, BINS - 1, self.members)
        for j in range(self.n_features):
            value = torch.unique(a[:, j])
            between = 0.5 * (value[1:] + value[:-1])
            if value.shape[0] > BINS:
                # Never at a value: rounding would move it from bin to bin.
                place = torch.searchsorted(value, torch.quantile(a[:, j], wanted), right=True) - 1
                between = between[torch.unique(place.clamp(max=between.shape[0] - 1))]
            by_bin[j % self.groups, : between.shape[0], j // self.groups] = between
        count = F.one_hot(self.bin_of(self.above(self.group(a))), BINS).sum(dim=1).transpose(1, 2)
        bins = torch.arange(BINS, device=a.device)[None, :, None]
        share = (count + 0.5) * (bins <= torch.isfinite(by_bin).sum(dim=1, keepdim=True))
        self.marginal.copy_((share / share.sum(dim=1, keepdim=True))[:, None])

    def group(self, of_features: Tensor) -> Tensor:
        """[n, d] -> [g, n, members]. Neighbouring columns often belong together: they go into different groups."""
        padded = F.pad(of_features, [0, self.groups * self.members - self.n_features])
        return padded.reshape(of_features.shape[0], self.members, self.groups).permute(2, 0, 1).contiguous()

    def above(self, a: Tensor) -> Tensor:
        """A by groups [g, n, members] -> 1 for each edge that the value is above [g, n, (bins - 1) * members]."""
        return a.repeat(1, 1, self.edges.shape[2] // self.members).gt_(self.edges)

    def bin_of(self, above: Tensor) -> Tensor:
        """Edges that values are above -> the number of each value's bin [g, n, members]."""
        by_edge = above.reshape(self.groups, above.shape[1], above.shape[2] // self.members, self.members)
        return by_edge.sum(dim=2).to(torch.int64)

    def first_layer(self, a: Tensor, shown: Tensor, above: Tensor) -> Tensor:
        """A, what of it is shown (1 or 0) and the edges it is above, 0 where not shown, by groups -> what each group
        adds to the first layer [g, n, width]."""
        return batched(torch.cat([above, a * shown, 1.0 - shown], dim=2), self.from_inputs)

    def lift(self, first: Tensor, own: Tensor) -> Tensor:
        """First-layer sums for each group [g, n, width], numbers of bins [g, n, members] -> how many times as probable
        as by itself the others make each bin, mixed with a little of no difference [g, n, members]."""
        hidden = F.silu(first)
        hidden = hidden + F.silu(self.hidden(hidden))
        logits = batched(hidden, self.to_bins)
        weight = exp(logits.clamp(-20.0, 20.0))
        weight = weight.reshape(self.groups, own.shape[1], weight.shape[2] // self.members, self.members)
        lift = weight.gather(2, own[:, :, None]).squeeze(2) / (weight * self.marginal).sum(dim=2)
        return (1.0 - self.marginal_share) * lift + self.marginal_share

    def loss(self, a: Tensor, draws: Draws) -> Tensor:
        """Mean cross-entropy of the masked features, less that of their marginals, which no weight changes; each row
        of A [n, d] masks another random part of them."""
        n = a.shape[0]
        share = 0.1 + 0.5 * draws.uniform(n, 1)
        masked = (draws.uniform(n, self.n_features) < share).scatter(1, draws.rows(self.n_features, n, 1), True)
        masked, a = self.group(masked.to(a.dtype)), self.group(a)
        visible = self.above(torch.where(masked > 0.0, -torch.inf, a))
        first = self.first_layer(a, 1.0 - masked, visible).sum(dim=0) + self.bias
        lift = self.lift(first.expand(self.groups, -1, -1), self.bin_of(self.above(a)))
        return -(torch.log(lift) * masked).sum() / masked.sum()

    def forward(self, a: Tensor, missing: Tensor) -> Tensor:
        """A [n, d] (anything finite where missing) and what is missing [n, d] -> -log of the lift [n, d], 0 where the
        others speak for the value, and where it is missing."""
        a, shown = self.group(a), self.group(1.0 - missing.to(a.dtype))
        above = self.above(torch.where(shown > 0.0, a, -torch.inf))
        added = self.first_layer(a, shown, above)
        # A group that is masked shows that it is, and nothing else.
        from_mask = self.from_inputs[:, -self.members :].sum(dim=1, keepdim=True)
        first = added.sum(dim=0) - added + (from_mask + self.bias)
        against = -torch.log(self.lift(first, self.bin_of(above)).clamp(max=1.0)) * shown
        return against.permute(1, 2, 0).reshape(missing.shape[0], self.members * self.groups)[:, : self.n_features]
