"""Folds: which rows of the window are learned from, and which are held out to judge what was learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = 8
PASTS_OF_BLOCK = 4
"""A block shall hold so many times as many rows of a sequence as a row's past reaches back."""
ALONE = -1
"""Sequence of rows that follow no other, since a person said what they are: no doubt is cast on them."""
LEAST_HELD = 0.25
"""Share of the rows that have to be left, or else those beside other folds are held out, too."""


@dataclass(frozen=True, slots=True)
class Window:
    """Rows to learn from, in time order."""

    rows: Tensor
    """[n, d] float64, NaN for missing."""
    sequence: Tensor
    """[n] rows of one number follow each other, as those of a record key do; see also `ALONE`."""
    past: int = 0
    """How many rows before it, of the same sequence, a row tells of."""
    thinned: Tensor | None = None
    """As `stands_for`, if some rows were thinned out."""

    @property
    def stands_for(self) -> Tensor:
        """[n] of how many rows of the stream each is the one that is left."""
        ones = torch.ones(len(self.rows), dtype=torch.float64, device=self.rows.device)
        return ones if self.thinned is None else self.thinned

    def __getitem__(self, which: Tensor) -> Window:
        thinned = None if self.thinned is None else self.thinned[which]
        return Window(self.rows[which], self.sequence[which], self.past, thinned)


@dataclass(frozen=True, slots=True)
class Folds:
    """The number of each row's fold [n]: stages that learn from the others are judged by its `held` rows."""

    fold: Tensor
    held: Tensor
    """As `fold`, -1 for rows that are near those of another fold in their sequence: the past of one tells of both."""


def into_folds(window: Window, folds: int, seed: int) -> Folds:
    """Deal out the window's rows, in as many blocks as keep most rows of a fold apart from the others."""
    n, past = len(window.sequence), window.past
    blocks = min(BLOCKS, n // 4)
    if past > 0:
        blocks = min(blocks, typical_length(window.sequence) // (PASTS_OF_BLOCK * past))
    fold = blocks_to_folds(window.stands_for.cpu(), folds, blocks, seed).to(window.sequence.device)
    held = fold.masked_fill(near_another(fold, window.sequence, past, window.stands_for), -1)
    if (held >= 0).sum() < LEAST_HELD * n:
        held = fold
    return Folds(fold, held)


def typical_length(sequence: Tensor) -> int:
    """How many rows of its sequence there are for a row [n], in the mean."""
    count = torch.unique(sequence, return_counts=True)[1]
    return int((count * count).sum()) // len(sequence)


def blocks_to_folds(stands_for: Tensor, folds: int, blocks: int, seed: int) -> Tensor:
    """Fold number [n] of each row, which `stands_for` [n] rows of the stream: contiguous blocks, dealt out at random.

    Neighbours in time are near copies, so single rows drawn at random would make every model look better than
    the next hour will. Blocks from all over the window, because a single recent one sees one time of the day;
    at random, because equally spaced ones would fall into step with the day; each fold once in every few blocks,
    because an operating point that fills these must be both learned and held out. The last block is in fold 0.

    All blocks are of the same time: as many rows of the stream as are left of it, over the number of `blocks`. Where
    most rows were thinned out there are many with few rows each, and an operating point of long ago is not in one.
    """
    generator = torch.Generator().manual_seed(seed)
    n, least = len(stands_for), folds * max(1, blocks // folds)
    time = stands_for.cumsum(0)
    block = torch.floor((time - 1.0 - time[-1]) * least / n).unique_consecutive(return_inverse=True)[1]
    count = int(block[-1]) + 1
    dealt = torch.cat([torch.randperm(folds, generator=generator) for _ in range(-(-count // folds))])
    last = dealt[-folds:]
    last[last == 0], last[-1] = last[-1].clone(), 0
    return dealt[-count:][block]


def near_another(fold: Tensor, sequence: Tensor, past: int, stands_for: Tensor) -> Tensor:
    """Rows [n] with one of another `fold` [n] among the `past` rows of the stream before or after them in their
    `sequence` [n], of which each `stands_for` [n]."""
    order = sequence.argsort(stable=True)
    ordered, place = sequence[order], stands_for[order].cumsum(0)
    starts = (fold[order].diff() != 0) | (ordered.diff() != 0)
    run = torch.cat([starts.new_zeros(1), starts]).cumsum(0)
    first = torch.nonzero(starts).flatten() + 1
    same = ordered[first] == ordered[first - 1]
    never = place.new_full((1,), torch.inf)
    before = torch.cat([-never, torch.where(same, place[first - 1], -torch.inf)])
    after = torch.cat([torch.where(same, place[first], torch.inf), never])
    near = (place - before[run] <= past) | (after[run] - place <= past)
    return near[order.argsort()]


def in_the_past(marked: Tensor, sequence: Tensor, past: int) -> Tensor:
    """Rows [n] that are `marked` [n], or have a marked one among the `past` rows before them in their `sequence` [n];
    none for a negative past."""
    order = sequence.argsort(stable=True)
    place = torch.arange(len(order), device=order.device)
    latest = torch.where(marked[order], place, -past - 1).cummax(0).values
    near = (place - latest <= past) & (sequence[order] == sequence[order][latest.clamp(min=0)])
    return near[order.argsort()]
