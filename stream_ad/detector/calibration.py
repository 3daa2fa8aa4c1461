"""Calibration: from a raw score to a p-value and to the score that users see."""

import math

import torch
from torch import Tensor, nn

TABLE_SIZE = 4096
TAIL_SHARE = 0.1
ROUNDING = 1e-3
"""So much equal rows may differ in their raw scores, in units of the score and of 1 together."""


class Calibration(nn.Module):
    """Conformal p-values against held-out inliers, with a generalised Pareto tail.

    p = (1 + number of held-out raw scores >= s) / (n + 1) (Vovk et al. 2005) in the body. Above the largest few
    a generalised Pareto distribution is fitted to the excesses (Pickands 1975), so that p goes on
    falling where no held-out row is left. score = log p / log alpha: 1.0 stands exactly at p = alpha.
    """

    table: Tensor
    body: Tensor
    tail: Tensor
    alpha: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(TABLE_SIZE))
        # rows, share of rows beyond the reach of the table
        self.register_buffer("body", torch.tensor([1.0, 0.0], dtype=torch.float64))
        # threshold u, p at u, shape xi, scale sigma, largest excess seen
        self.register_buffer("tail", torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
        self.register_buffer("alpha", torch.tensor(0.001, dtype=torch.float64))

    def fit(self, raw: Tensor, alpha: float, truncated: float = 0.0, repeated: bool = False) -> None:
        """Learn from raw scores [n] of rows that were not trained on.

        Those far beyond the others are left out as anomalies, unless most rows are `repeated`: of these one that is new
        is far beyond the others, and as frequent as the window says. Between them are gaps, so no tail is fitted to
        them, and one that falls off slowly begins at the last.

        `truncated` is the share of the inliers that cannot be among them, because the model before flagged
        them too strongly to tell them from anomalies: they count as rows above everything.
        """
        raised = raw.to(torch.float64).flatten() + ROUNDING * (1.0 + raw.flatten().abs())
        ordered = raised.sort().values
        if not repeated:
            ordered = drop_outliers(ordered)
        n = ordered.shape[0]
        pick = torch.linspace(0, n - 1, TABLE_SIZE, dtype=torch.float64, device=raw.device).round().to(torch.int64)
        self.table.copy_(ordered[pick])
        self.body.copy_(torch.tensor([float(n), truncated], dtype=torch.float64))
        self.alpha.fill_(alpha)
        # As few rows as a fit can do with: the nearer the tail begins to alpha, the less it matters that the
        # distribution is no Pareto's.
        few = max(min(TAIL_SHARE * n, max(50.0, 2.0 * alpha * n)), min(20.0, n / 2.0))
        wanted = 0.0 if repeated else few
        # The smallest score above the body, so that a gap below the tail is not taken for its length.
        tail = ordered[ordered > ordered[n - 1 - min(n - 1, math.ceil(wanted))]]
        threshold = tail[0] if tail.shape[0] > 0 else ordered[-1]
        excess = (tail[tail > threshold] - threshold).cpu()
        shape, scale = fit_generalised_pareto(excess)
        if repeated:
            scale = max(scale, 0.1 * float(ordered[-1] - ordered[n // 2]))
        above = excess.shape[0] / n
        p_at_threshold = max(above * (1.0 - truncated) + truncated, 1.0 / (n + 1.0))
        largest = float(excess.max()) if excess.shape[0] > 0 else 0.0
        self.tail.copy_(torch.tensor([float(threshold), p_at_threshold, shape, scale, largest]))

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """raw [n] -> score [n] >= 0 and p-value [n] in (0, 1], float64."""
        s = raw.to(torch.float64)
        below = self.share_below(raw)
        at_least = (1.0 - below) * (1.0 - self.body[1]) + self.body[1]
        p_body = (1.0 + self.body[0] * at_least) / (1.0 + self.body[0])
        threshold, p_at_threshold, shape, scale = self.tail[0], self.tail[1], self.tail[2], self.tail[3]
        excess = (s - threshold).clamp(min=0.0)
        # Inside the range that was seen the fitted tail, beyond it straight on in -log p: a negative shape
        # would end the distribution there, and scores would stop ranking.
        seen = torch.minimum(excess, self.tail[4])
        spread = torch.maximum(scale + shape * seen, 0.2 * scale)
        decay = torch.log(spread / scale) / shape + (excess - seen) / spread
        p_tail = p_at_threshold * torch.exp(-decay)
        p = torch.where(s > threshold, p_tail, p_body).clamp(1e-300, 1.0)
        return torch.log(p) / torch.log(self.alpha) + 0.0, p

    def share_below(self, raw: Tensor) -> Tensor:
        """Share [n] of the table below raw [n], float64; straight from one entry to the next, since over a step
        rounding would decide."""
        # Beyond the last entry the tail says how likely a row is; of a broken model's NaN the last one does.
        inside = torch.where(raw < self.table[-1], raw, self.table[-1])
        upper = torch.searchsorted(self.table, inside.contiguous()).clamp(min=1)
        high = self.table[upper]
        back = (high - inside) / (high - self.table[upper - 1]).clamp(min=1e-30)
        return (upper - back.clamp(max=1.0)).to(torch.float64) / self.table.shape[0]


def drop_outliers(ordered: Tensor) -> Tensor:
    """Leave out of sorted scores [n] those that no tail like the rest's could have produced.

    The rate of an exponential tail is estimated between the 80 % and the 95 % quantile, censored above; what
    lies twice as far out as the largest of twenty such samples would is a real anomaly in the window, and one
    of them must not lift the threshold above itself.
    """
    n = ordered.shape[0]
    if n < 40:
        return ordered
    low, high = ordered[int(0.80 * n)], ordered[int(0.95 * n)]
    if high <= low:
        return ordered  # mostly copies of one row: no tail to compare with
    between = ordered[int(0.80 * n) : int(0.95 * n)] - low
    censored = n - int(0.95 * n)
    rate = (between.sum() + censored * (high - low)) / max(1, between.shape[0])
    reach = low + 2.0 * math.log(20.0 * 0.2 * n) * rate
    return ordered[ordered <= reach]


def fit_generalised_pareto(excess: Tensor) -> tuple[float, float]:
    """Shape and scale of excesses [k] > 0, by the estimator of Zhang and Stephens (2009).

    The shape is shrunk towards 0 as if ten rows had said so (as PSIS does, Vehtari et al. 2024) and kept
    within (-0.25, 0.5). Fewer than five excesses say nothing: a short exponential tail is returned.
    """
    k = excess.shape[0]
    if k < 5 or float(excess.max()) <= 0.0:
        return 1e-4, max(float(excess.mean()) if k else 0.0, 0.1)
    x = excess.to(torch.float64).sort().values
    m = 30 + int(math.sqrt(k))
    grid = torch.arange(1, m + 1, dtype=torch.float64)
    quartile = x[int(k / 4 + 0.5) - 1].clamp(min=1e-12)
    theta = 1.0 / x[-1] + (1.0 - torch.sqrt(m / (grid - 0.5))) / (3.0 * quartile)
    shapes = torch.log1p(-theta[:, None] * x[None, :]).mean(dim=1)
    likelihood = k * (torch.log(-theta / shapes) - shapes - 1.0)
    weight = torch.softmax(likelihood, dim=0)
    shape = float(torch.log1p(-(theta * weight).sum() * x).mean())
    shape = min(0.5, max(-0.25, k * shape / (k + 10.0)))
    if abs(shape) < 1e-4:
        shape = 1e-4
    # The scale that goes with this shape: the mean of the distribution is scale / (1 - shape).
    scale = max(float(x.mean()) * (1.0 - shape), 1.05 * max(0.0, -shape) * float(x[-1]), 1e-3)
    return shape, scale
