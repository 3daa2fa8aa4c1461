"""Stage 0, descriptors: what the first-level autoencoders look at."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_ad.detector.pointwise import exp
from stream_ad.detector.products import linear

FLOAT32_MAX = 3.4028234663852886e38
FLOAT32_ROUNDING = 4.0 * 2.0**-23
"""Relative. So far two values may be apart that are one, sent once as text and once as float32."""
FEWEST_VALUES = 30
"""A feature with fewer in the window, or in less than a quarter of a small one, counts as missing."""


def soft_clip(v: Tensor) -> Tensor:
    """Leave |v| <= 4 as it is and compress what is beyond logarithmically, so that an extreme value stays
    ordered without drowning the rest. Any shape, dtype kept."""
    inside = v.clamp(-4.0, 4.0)
    return inside + torch.copysign(1.5 * torch.log1p((v - inside).abs()), v)


def soft_clip_inverse(a: Tensor) -> Tensor:
    """Undo `soft_clip`; compressed values beyond a million spreads are cut there."""
    inside = a.clamp(-4.0, 4.0)
    return inside + torch.copysign(exp(((a - inside).abs() / 1.5).clamp(max=14.0)) - 1.0, a)


class Standardise(nn.Module):
    """Descriptor A: each feature in units of its own spread, softly clipped.

    Works in float64 up to the clip: a counter near 2e9 that moves by 5 has no movement left in float32.
    """

    mean: Tensor
    scale: Tensor
    unknown: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.largest = FLOAT32_MAX
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))
        self.register_buffer("unknown", torch.zeros(n_features, dtype=torch.bool))

    def fit(self, x: Tensor) -> None:
        """Learn centre and spread from x [n, d] float64, NaN allowed.

        A few wild values (an unlisted sentinel of -9999) must not set the spread, so values are first cut at
        five times the range of the middle 90 %. A column whose spread is rounding error is constant; its unit
        is then one hundredth of its value, so that leaving the constant is seen and rounding is not. Of a feature
        with next to no values nothing is known: it is its mean wherever it comes.
        """
        low, middle, high = nan_quantiles(x, (0.05, 0.5, 0.95))
        reach = 5.0 * (high - low)
        # Where the middle 90 % are one value the range says nothing about the rest.
        reach = torch.where(reach > 0.0, reach, torch.full_like(reach, torch.inf))
        cut = torch.minimum(torch.maximum(x, low - reach), high + reach)
        mean = middle + torch.nanmean(cut - middle, dim=0)
        scale = torch.nanmean((cut - mean) ** 2, dim=0).sqrt()
        rounding = 8.0 * torch.finfo(torch.float64).eps * torch.maximum(low.abs(), high.abs())
        constant = ~(scale > rounding)
        unit = torch.where(mean.abs() > 0.0, 0.01 * mean.abs(), torch.ones_like(mean))
        self.mean.copy_(torch.nan_to_num(mean))
        self.unknown.copy_((~torch.isnan(x)).sum(dim=0) < min(FEWEST_VALUES, x.shape[0] // 4))
        self.scale.copy_(torch.where(constant, torch.nan_to_num(unit, nan=1.0), scale).clamp(min=1e-300))

    def forward(self, x: Tensor) -> Tensor:
        """x [n, d] float64 with NaN for missing -> A [n, d] float32, NaN where x has it; 0 for all that is the mean
        but for a millionth of the spread, such as the rounding error of a constant, and of an unknown feature."""
        v = ((x - self.mean) / self.scale).to(torch.float32)
        v = torch.where((v.abs() < 1e-6) | self.unknown, 0.0, v)
        return soft_clip(v.clamp(-self.largest, self.largest))

    def missing(self, x: Tensor) -> Tensor:
        """x [n, d] float64, NaN for missing -> what says nothing: it is not there, or nothing is known of it [n, d]."""
        return torch.isnan(x) | self.unknown

    def without_rounding(self, x: Tensor, a: Tensor) -> Tensor:
        """x [n, d] and its A -> x with the mean where A is 0: a constant, however it was computed, is one value."""
        return torch.where(a == 0.0, self.mean, x)

    def inverse(self, a: Tensor) -> Tensor:
        """A [n, d] -> values in the units of the input, float64."""
        return soft_clip_inverse(a).to(torch.float64) * self.scale + self.mean


class Ranks(nn.Module):
    """Descriptor R: where each feature stands among the inliers, whatever its units.

    The normal score of the mid-rank (van der Waerden 1952): a column of counts, prices or identifiers over many
    orders of magnitude, or of a few values only, becomes as even as a sensor's.

    The size of the table is rounded up to a power of two, so that a search by halves never leaves it.
    """

    value: Tensor
    lower: Tensor
    upper: Tensor
    score_at: Tensor
    score_below: Tensor

    def __init__(self, n_features: int, size: int) -> None:
        super().__init__()
        size = 1 << (size - 1).bit_length()
        self.first_step = size // 2
        # A table of values in ascending order for each feature; what is left of it is infinite.
        self.register_buffer("value", torch.full((n_features, size), torch.inf, dtype=torch.float64))
        # From where to where a value is the one in the table.
        self.register_buffer("lower", self.value.clone())
        self.register_buffer("upper", self.value.clone())
        self.register_buffer("score_at", torch.zeros(n_features, size))
        self.register_buffer("score_below", torch.zeros(n_features, size))

    def fit(self, x: Tensor) -> Tensor:
        """Learn from x [n, d] float64, NaN allowed; return how many distinct values each feature has [d], 0 where they
        are too many for the table or there is none."""
        size = self.value.shape[1]
        distinct = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
        for j in range(x.shape[1]):
            known = x[~torch.isnan(x[:, j]), j]
            n = known.shape[0]
            if n == 0:
                continue
            value, count = torch.unique(known, return_counts=True)
            upper = torch.cumsum(count, 0).to(torch.float64)
            lower = upper - count
            if value.shape[0] < size:
                distinct[j] = value.shape[0]
            else:
                # Evenly over the normal scores, so that the tails keep their detail.
                reach = -torch.special.ndtri(torch.tensor(0.5 / n, dtype=torch.float64, device=x.device))
                wanted = n * torch.special.ndtr(reach * torch.linspace(-1.0, 1.0, size - 1, device=x.device).to(x))
                pick = torch.unique(torch.searchsorted(upper, wanted).clamp(max=value.shape[0] - 1))
                value, upper, lower = value[pick], upper[pick], lower[pick]
            k = value.shape[0]
            between = 0.5 * (lower + torch.cat([torch.zeros_like(upper[:1]), upper[:-1]]))
            reach = rounding(value)
            self.value[j, :k], self.lower[j, :k], self.upper[j, :k] = value, value - reach, value + reach
            self.score_at[j, :k] = normal_score(0.5 * (lower + upper), n)
            self.score_below[j, :k] = normal_score(between, n)
            self.score_below[j, k:] = normal_score(upper[-1:], n)
        return distinct

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64 without NaN -> R [n, d] float32, place of each value in its table [d, n], and whether it
        is the value there [d, n]."""
        columns = x.T.contiguous()
        place = self.search(columns)
        known = self.lower.gather(1, place) <= columns
        score = torch.where(known, self.score_at.gather(1, place), self.score_below.gather(1, place))
        return score.T, place, known

    def nearest_value(self, x: Tensor) -> Tensor:
        """x [n, d] float64 without NaN -> the values in the tables that are nearest [n, d]."""
        columns = x.T.contiguous()
        place = self.search(columns)
        above, below = self.value.gather(1, place), self.value.gather(1, (place - 1).clamp(min=0))
        return torch.where(above - columns < (columns - below).abs(), above, below).T

    def search(self, columns: Tensor) -> Tensor:
        """Values [d, n] -> the first place in the table of their feature that is not below them, but for rounding, or
        the last [d, n].

        As `torch.searchsorted`, which takes them one by one and guesses wrong at every other step: by halves, all at
        once, it is three times as fast.
        """
        place = torch.zeros_like(columns, dtype=torch.int64)
        step = self.first_step
        while step > 0:
            below = self.upper[:, step - 1 :].gather(1, place) < columns
            place = torch.add(place, below, alpha=step)
            step = step // 2
        return place


def rounding(value: Tensor) -> Tensor:
    """How far off each of the values [k], in ascending order, is still itself: as rounding to float32 may move it, but
    well short of the next. Whole numbers are not moved."""
    if bool((value == value.round()).all()):
        return torch.zeros_like(value)
    gap = F.pad(value[1:] - value[:-1], [1, 1], value=torch.inf)
    return torch.minimum(FLOAT32_ROUNDING * value.abs(), 0.25 * torch.minimum(gap[1:], gap[:-1]))


def normal_score(rank: Tensor, n: int) -> Tensor:
    """Standard normal quantile of a rank from 0 to n, bounded a little beyond the outermost of n rows."""
    share = (rank + 0.5) / (n + 1.0)
    score: Tensor = torch.special.ndtri(share.clamp(0.3 / n, 1.0 - 0.3 / n))
    return score.to(torch.float32)


class Whiten(nn.Module):
    """Descriptor W: A rotated and scaled so that all directions of the inliers weigh the same.

    W = (A - mean A) V / sqrt(w + 0.1 mean(w)) with cov(A) = V diag(w) V'. What breaks a correlation is small
    in A and large here.
    """

    centre: Tensor
    projection: Tensor
    stretch: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("projection", torch.eye(n_features))
        self.register_buffer("stretch", torch.ones(n_features))

    def fit(self, a: Tensor) -> None:
        """Learn from A [n, d] without NaN."""
        a64 = a.to(torch.float64)
        centre = a64.mean(dim=0)
        covariance = (a64 - centre).T @ (a64 - centre) / max(1, a.shape[0] - 1)
        w, v = torch.linalg.eigh(covariance)
        w = w.clamp(min=0.0)
        self.centre.copy_(centre)
        divisor = w + 0.1 * w.mean() + 1e-9
        self.projection.copy_(v / torch.sqrt(divisor))
        self.stretch.copy_(torch.sqrt(1.0 + divisor))

    def forward(self, a: Tensor) -> Tensor:
        """A [n, d] -> W [n, d], float32."""
        return linear(a - self.centre, self.projection.t())

    def inverse(self, w: Tensor) -> Tensor:
        """W [n, d] -> A [n, d]."""
        # The columns of the projection are orthogonal, so the way back needs no inverse of a matrix.
        return w @ (self.projection / self.projection.pow(2).sum(dim=0)).t() + self.centre

    def both(self, w: Tensor) -> Tensor:
        """W [n, d] -> [n, d] in which two rows are as far apart as in [A, W]: A is W rotated and scaled."""
        return w * self.stretch

    def apart(self, both: Tensor) -> Tensor:
        """Undo `both`: [n, d] -> W [n, d]."""
        return both / self.stretch


def nan_quantiles(x: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Quantiles of each column of x [n, d] over its values that are there; 0 where none is."""
    ordered = x.sort(dim=0).values  # NaN sorts last
    count = (~torch.isnan(x)).sum(dim=0)
    found = []
    for share in shares:
        index = ((count - 1).clamp(min=0).to(torch.float64) * share).round().to(torch.int64)
        found.append(torch.nan_to_num(ordered.gather(0, index[None])[0]))
    return tuple(found)
