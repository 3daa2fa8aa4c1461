"""Rest: where many rows hardly differ, as those of a plant that stands still, few of them are learned from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 0.05
"""Of the rows that are learned from, those at rest."""
LEAST_ROWS = 500
FEWEST_ROWS = 200
"""Fewer do not show a gap."""
SAMPLE = 2048
"""Rows that show where a column rests."""
CLOSE = 0.25
"""A column rests around the shortest interval that holds such a share of its values."""
REACHES = (1.0, 2.0, 4.0)
"""How far around, in lengths of it: to where there is next to nothing up to twice as far."""
LEAST_REACH = 0.02
"""The same as a share of the column's range: most values may be one and the same."""
FAR, BETWEEN = 0.03, 0.2
"""The share of the values, at least, that lie beyond, and, at most, how many times as many in between."""
WIDER = 8.0
"""Quartiles of those beyond are more than so many lengths apart: a plant that runs moves, a number that means 'no
reading' does not."""
LASTING = 4.0
"""What lasts is left for another row so many times less often than by chance: a plant stands still for a while, while
single rows just happen to be ordinary."""
TOGETHER = 0.8
"""Of the time that the column that rests least does, all do."""
STEPS = 3.0
"""From there to where it rests is so many times as far, at least, as from one of their values to the next: a count may
well be 0."""


@dataclass(frozen=True, slots=True)
class Rest:
    """From where to where each column is at rest; infinitely far for those that never are."""

    low: Tensor
    """[d]"""
    high: Tensor
    """[d]"""

    @classmethod
    def found_in(cls, x: Tensor) -> Rest | None:
        """Where rows x [n, d] rest, NaN for missing; None where fewer than half of the columns that vary do."""
        if len(x) < FEWEST_ROWS:
            return None
        sample = filled(x[:: max(1, len(x) // SAMPLE)])
        low, high = intervals_of_rest(sample.sort(dim=0).values)
        resting = torch.isfinite(low)
        varying = int((sample != sample[0]).any(dim=0).sum())
        if not 0 < varying <= 2 * int(resting.sum()):
            return None
        rests = within(sample, low, high)
        together = float(rests.all(dim=1).double().mean())
        return cls(low, high) if together >= TOGETHER * float(rests.double().mean(dim=0).min()) else None

    def holds(self, x: Tensor) -> Tensor:
        """Which of the rows x [n, d] are at rest in all columns [n]; missing values do not count."""
        return (torch.isnan(x) | within(x, self.low, self.high)).all(dim=1)


def thin_rest(x: Tensor, sequence: Tensor) -> Tensor:
    """Rows x [n, d] in time order, NaN for missing, and the sequence of each [n], such as that of a record key -> how
    many of them each stands for [n], 0 for those that are left out.

    All are 1 unless many rows are at rest. Else scales, bins and prototypes would be those of a plant that stands
    still, and next to them all rows of one that runs look alike: so of those at rest only some are kept, evenly over
    time.
    """
    stands_for = torch.ones(len(x), dtype=torch.float64, device=x.device)
    rest = Rest.found_in(x)
    if rest is None:
        return stands_for
    rests = rest.holds(x)
    if not lasts(rests, sequence):
        return stands_for
    resting = int(rests.sum())
    wanted = max(LEAST_ROWS, int(SHARE / (1.0 - SHARE) * (len(x) - resting)))
    if wanted >= resting:
        return stands_for
    share = wanted / resting
    number = rests.cumsum(0).to(torch.float64)
    kept = torch.floor(number * share) > torch.floor((number - 1.0) * share)
    return torch.where(rests, kept / share, stands_for)


def lasts(marked: Tensor, sequence: Tensor) -> bool:
    """Whether of rows in the order of time those that are `marked` [n] follow on each other in their sequence [n]."""
    order = sequence.argsort(stable=True)
    here, ordered = marked[order], sequence[order]
    before = here[:-1] & (ordered[1:] == ordered[:-1])
    left = before & ~here[1:]
    return bool(before.any()) and LASTING * int(left.sum()) * len(here) <= int((~here).sum()) * int(before.sum())


def filled(x: Tensor) -> Tensor:
    """x [n, d] with the gaps of each column filled in by its other values in turn, 0 if there is none."""
    x = x.clone()
    for j in torch.nonzero(torch.isnan(x).any(dim=0)).flatten().tolist():
        gap = torch.isnan(x[:, j])
        known = x[~gap, j] if not bool(gap.all()) else x.new_zeros(1)
        x[gap, j] = known[torch.arange(int(gap.sum()), device=x.device) % len(known)]
    return x


def intervals_of_rest(known: Tensor) -> tuple[Tensor, Tensor]:
    """Columns [m, d], each in ascending order -> from where to where the values of each are next to copies of each
    other, with a gap around them [d]; infinitely far where there is no such place."""
    m = len(known)
    some = max(1, int(CLOSE * m))
    length, start = (known[some:] - known[: m - some]).min(dim=0)
    low, high = known.gather(0, start[None])[0], known.gather(0, start[None] + some)[0]
    least = LEAST_REACH * (known[int(0.995 * (m - 1))] - known[int(0.005 * (m - 1))])
    found_low, found_high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    sought = known[0] < known[-1]
    for reach in REACHES:
        around = torch.maximum(reach * length, least)
        near, clear = (within(known, low - away, high + away).sum(dim=0) for away in (around, 2.0 * around))
        far = m - clear
        gap = sought & (far >= FAR * m) & (clear - near <= BETWEEN * far)
        for j in torch.nonzero(gap).flatten().tolist():
            beyond = known[~within(known[:, j], low[j] - 2.0 * around[j], high[j] + 2.0 * around[j]), j]
            usual = torch.unique(beyond[len(beyond) // 4 : 3 * len(beyond) // 4 + 1])
            if usual[-1] - usual[0] > WIDER * length[j] and around[j] >= STEPS * usual.diff().median():
                # Half-way into the gap: what rests may now and then be a little off.
                found_low[j], found_high[j] = low[j] - 1.5 * around[j], high[j] + 1.5 * around[j]
        sought &= ~gap
    return found_low, found_high


def within(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (values >= low) & (values <= high)
