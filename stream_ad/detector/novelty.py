"""Stage 1, novelty: values, and pairs of values, that the inliers never showed."""

import torch
from torch import Tensor, nn

MOST_COLUMNS = 32
MOST_PAIRS = 64
CELLS = 32_768
LEAST_SURPRISE = 1.0
"""Pairs count by how much more surprising they are: one that is just about so must not come and go with a few rows."""


class Novelty(nn.Module):
    """How surprising it is that a value, or a pair of values of two features, was not among the inliers'.

    By Good and Turing (1953) the chance of something never seen is the share of what was seen once: large among
    measurements, where every value is new, and next to nothing among states, codes and rounded figures. There a value
    between two known ones, or two known ones that never met, tells more than any distance.
    """

    surprise: Tensor
    first: Tensor
    second: Tensor
    stride: Tensor
    met: Tensor
    pair_surprise: Tensor

    def __init__(self, n_features: int, pairs: int = 0) -> None:
        super().__init__()
        self.cells = CELLS
        self.least_surprise = LEAST_SURPRISE
        self.register_buffer("surprise", torch.zeros(n_features))
        self.register_buffer("first", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("second", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("stride", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("met", torch.zeros(pairs, CELLS, dtype=torch.bool))
        self.register_buffer("pair_surprise", torch.zeros(pairs))

    def fit(self, place: Tensor, distinct: Tensor, missing: Tensor) -> None:
        """Learn from each value's place in the table of its feature [d, n], where the table holds all of them:
        `distinct` [d] is their number, 0 where there are too many for it. What is `missing` [n, d] does not count."""
        present = ~missing.T
        for j in torch.nonzero(distinct).flatten().tolist():
            self.surprise[j] = good_turing(place[j, present[j]])
        candidates = torch.nonzero(self.states() & (distinct > 1)).flatten()
        candidates = candidates[distinct[candidates].argsort(descending=True, stable=True)][:MOST_COLUMNS]
        found = []
        for k, i in enumerate(candidates.tolist()):
            for j in candidates[:k].tolist():
                surprise = good_turing((place[i] * distinct[j] + place[j])[present[i] & present[j]])
                if surprise > LEAST_SURPRISE:
                    found.append((surprise - LEAST_SURPRISE, i, j))
        found = sorted(found, reverse=True)[:MOST_PAIRS]
        self.pair_surprise = self.surprise.new_tensor([pair[0] for pair in found])
        self.first = distinct.new_tensor([pair[1] for pair in found])
        self.second = distinct.new_tensor([pair[2] for pair in found])
        self.stride = distinct[self.second]
        cell = (place[self.first] * self.stride[:, None] + place[self.second]) % CELLS
        both = (present[self.first] & present[self.second]).to(torch.int32)
        self.met = torch.zeros(len(found), CELLS, dtype=torch.int32, device=place.device).scatter_add(1, cell, both) > 0

    def states(self) -> Tensor:
        """Features whose values come again and again [d]."""
        return self.surprise >= self.least_surprise

    def forward(self, place: Tensor, known: Tensor, missing: Tensor) -> Tensor:
        """Places in the tables [d, n], whether the table holds the value [d, n], and what is missing [n, d] ->
        largest surprise of a value and sum of the pairs' surprises [n, 2]."""
        present = ~missing.T
        values = torch.where(known | ~present, 0.0, self.surprise[:, None]).amax(dim=0)
        i, j = self.first, self.second
        cell = (place[i] * self.stride[:, None] + place[j]) % self.cells
        met = self.met.gather(1, cell) & known[i] & known[j]
        pairs = torch.where(met | ~(present[i] & present[j]), 0.0, self.pair_surprise[:, None])
        return torch.stack([values, pairs.sum(dim=0)], dim=1)


def good_turing(code: Tensor) -> float:
    """-log of the chance that the next of the codes [n] is one never seen."""
    count = torch.unique(code, return_counts=True)[1]
    return -float(torch.log(((count == 1).sum() + 0.5) / (code.shape[0] + 1.0)))
