"""Rest: where most rows hardly differ, as those of a plant that stands still, few of them are learned from."""

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
"""It is left for another row so many times less often than by chance: a plant stands still for a while, while single
rows just happen to be ordinary."""
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
        low, high = x.new_full((x.shape[1],), -torch.inf), x.new_full((x.shape[1],), torch.inf)
        sample = x[:: max(1, len(x) // SAMPLE)]
        varying, shares = 0, []
        for j, column in enumerate(sample.T):
            known = column[~torch.isnan(column)].sort().values
            if len(known) < 2 or known[0] == known[-1]:
                continue
            varying += 1
            interval = interval_of_rest(known)
            if interval is not None:
                low[j], high[j] = interval
                shares.append(float(within(known, *interval).double().mean()))
        if not 0 < varying <= 2 * len(shares):
            return None
        rest = cls(low, high)
        together = float(rest.holds(sample).double().mean())
        return rest if together >= TOGETHER * min(shares) else None

    def holds(self, x: Tensor) -> Tensor:
        """Which of the rows x [n, d] are at rest in all columns [n]; missing values do not count."""
        return (torch.isnan(x) | within(x, self.low, self.high)).all(dim=1)

    def lasts(self, x: Tensor, sequence: Tensor) -> bool:
        """Whether of rows x [n, d], in the order of time, those at rest follow on each other in their sequence [n]."""
        order = sequence.argsort(stable=True)
        rests, ordered = self.holds(x)[order], sequence[order]
        before = rests[:-1] & (ordered[1:] == ordered[:-1])
        left = before & ~rests[1:]
        return bool(before.any()) and LASTING * int(left.sum()) * len(x) <= int((~rests).sum()) * int(before.sum())


def thin_rest(x: Tensor, sequence: Tensor) -> Tensor:
    """Rows x [n, d] in time order, NaN for missing, and the sequence of each [n], such as that of a record key -> how
    many of them each stands for [n], 0 for those that are left out.

    All are 1 unless most rows are at rest. Else scales, bins and prototypes would be those of a plant that stands
    still, and next to them all rows of one that runs look alike: so of those at rest only some are kept, evenly over
    time.
    """
    stands_for = torch.ones(len(x), dtype=torch.float64, device=x.device)
    rest = Rest.found_in(x)
    if rest is None or not rest.lasts(x, sequence):
        return stands_for
    rests = rest.holds(x)
    resting = int(rests.sum())
    wanted = max(LEAST_ROWS, int(SHARE / (1.0 - SHARE) * (len(x) - resting)))
    if wanted >= resting:
        return stands_for
    share = wanted / resting
    number = rests.cumsum(0).to(torch.float64)
    kept = torch.floor(number * share) > torch.floor((number - 1.0) * share)
    return torch.where(rests, kept / share, stands_for)


def interval_of_rest(known: Tensor) -> tuple[Tensor, Tensor] | None:
    """From where to where the values [m], in ascending order, are next to copies of each other, with a gap around them;
    None where there is no such place."""
    m = len(known)
    some = max(1, int(CLOSE * m))
    length, start = (known[some:] - known[: m - some]).min(dim=0)
    low, high = known[start], known[start + some]
    least = LEAST_REACH * (known[int(0.995 * (m - 1))] - known[int(0.005 * (m - 1))])
    for reach in REACHES:
        around = torch.maximum(reach * length, least)
        near, clear = (within(known, low - away, high + away) for away in (around, 2.0 * around))
        far = known[~clear]
        if len(far) >= FAR * m and (clear & ~near).sum() <= BETWEEN * len(far):
            usual = torch.unique(far[len(far) // 4 : 3 * len(far) // 4 + 1])
            moves = usual[-1] - usual[0] > WIDER * length and around >= STEPS * usual.diff().median()
            return (low - 1.5 * around, high + 1.5 * around) if moves else None
    return None


def within(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (values >= low) & (values <= high)
