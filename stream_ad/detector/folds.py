"""Folds: which rows of the window are learned from, and which are held out to judge what was learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = 8
PASTS_OF_BLOCK = 4
"""A block shall hold so many times as many rows of a sequence as a row's past reaches back."""
LEAST_HELD = 0.25
"""Share of the rows that have to be left, or else those beside other folds are held out, too."""


@dataclass(frozen=True, slots=True)
class Window:
    """Rows to learn from, in time order."""

    rows: Tensor
    """[n, d] float64, NaN for missing."""
    sequence: Tensor
    """[n] rows of one number follow each other, as those of a record key do."""
    past: int = 0
    """How many rows before it, of the same sequence, a row tells of."""


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
    fold = blocks_to_folds(n, folds, blocks, seed).to(window.sequence.device)
    held = fold.masked_fill(near_another(fold, window.sequence, past), -1)
    if (held >= 0).sum() < LEAST_HELD * n:
        held = fold
    return Folds(fold, held)


def typical_length(sequence: Tensor) -> int:
    """How many rows of its sequence there are for a row [n], in the mean."""
    count = torch.unique(sequence, return_counts=True)[1]
    return int((count * count).sum()) // len(sequence)


def blocks_to_folds(n: int, folds: int, blocks: int, seed: int) -> Tensor:
    """Fold number [n] of each row: contiguous blocks of the window, dealt out at random.

    Neighbours in time are near copies, so single rows drawn at random would make every model look better than
    the next hour will. Blocks from all over the window, because a single recent one sees one time of the day;
    at random, because equally spaced ones would fall into step with the day; each fold once in every few blocks,
    because an operating point that fills these must be both learned and held out. The last block is in fold 0.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds = max(1, blocks // folds)
    dealt = torch.cat([torch.randperm(folds, generator=generator) for _ in range(rounds)])
    last = dealt[-folds:]
    last[last == 0], last[-1] = last[-1].clone(), 0
    return dealt[torch.arange(n) * len(dealt) // n]


def near_another(fold: Tensor, sequence: Tensor, past: int) -> Tensor:
    """Rows [n] with one of another `fold` [n] among the `past` rows before or after them in their `sequence` [n]."""
    order = sequence.argsort(stable=True)
    changes = torch.nonzero((fold[order].diff() != 0) & (sequence[order].diff() == 0)).flatten()
    first, last = torch.zeros_like(fold, dtype=torch.bool), torch.zeros_like(fold, dtype=torch.bool)
    first[order[changes + 1]], last[order[changes]] = True, True
    # The first row of a block has the other one right before it.
    before = in_the_past(first, sequence, past - 1)
    after = in_the_past(last.flip(0), sequence.flip(0), past - 1).flip(0)
    return before | after


def in_the_past(marked: Tensor, sequence: Tensor, past: int) -> Tensor:
    """Rows [n] that are `marked` [n], or have a marked one among the `past` rows before them in their `sequence` [n];
    none for a negative past."""
    order = sequence.argsort(stable=True)
    place = torch.arange(len(order), device=order.device)
    latest = torch.where(marked[order], place, -past - 1).cummax(0).values
    near = (place - latest <= past) & (sequence[order] == sequence[order][latest.clamp(min=0)])
    return near[order.argsort()]
