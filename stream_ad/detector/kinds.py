"""Kinds of operation: rows of one that is rare and strange in every respect are judged by what is usual among them."""

import torch
from torch import Tensor

from stream_ad.detector.codebook import centroids
from stream_ad.detector.draws import Draws
from stream_ad.detector.resting import lasts

CELLS = 16
"""Parts of where the inliers lie; fewer, if some have too few rows to tell."""
ROWS_OF_CELL = 60
FEWEST_ROWS = 8
STEPS = 20
MOST, STRANGE = 0.75, 0.05
"""So many of the rows of such a kind are stranger than all but this share of the others."""
PARTS = 8
"""Of the window's time."""
TIMES, HERE = 4, 0.05
"""It comes in so many parts, each with this share of its rows: what comes less often may be a fault."""
MOST_ROWS = 0.5
"""Share of the rows that are of such kinds, together, at most: they are held against the others."""
NEAR_THRESHOLD = 0.9
"""The quantile of raw scores by which kinds are compared: where alerts begin, but with enough rows to tell."""


def usual_by_kind(
    prototypes: Tensor, nearest: Tensor, raw: Tensor, of_window: Tensor, sequence: Tensor, draws: Draws
) -> Tensor:
    """How far above that of others the raw score usually is around each of the prototypes [k, s]: 0 for most [k].

    `nearest` is the number of the prototype next to each of the rows held out [m], `raw` their raw scores [m],
    `of_window` the number of that next to each row of the window [n], in the order of time, and `sequence` the one that
    each belongs to [n].

    Of what a plant does a twentieth of the time little was learned. Next to it all else looks ordinary, so the
    threshold for all would stand where its rows are, and they would have all the alerts. What is strange as a whole and
    comes again and again, for a while each time, is taken for such a kind. What has come to stay is none, or a slow
    drift would make itself normal. In a table, where the next row is any row, there is none either, and single strange
    rows of any kind stay as strange as they are.
    """
    count = max(1, min(CELLS, len(prototypes), len(raw) // ROWS_OF_CELL))
    cell = into_cells(prototypes, count, draws)
    here, of_time = cell[nearest], cell[of_window]
    rare = strange_cells(here, raw, comes_again(of_time, count))
    usual = torch.zeros(count, dtype=raw.dtype, device=raw.device)
    if lasts(rare[of_time], sequence) and comes_among_others(rare[of_time]):
        others = torch.quantile(raw[~rare[here]], NEAR_THRESHOLD)
        for one in torch.nonzero(rare).flatten().tolist():
            usual[one] = torch.quantile(raw[here == one], NEAR_THRESHOLD) - others
    return usual.clamp(min=0.0)[cell]


def strange_cells(cell: Tensor, raw: Tensor, candidate: Tensor) -> Tensor:
    """Which of the `candidate` [c] cells are strange as a whole, by the `cell` of each row [m] and its raw score [m]:
    as many of the strangest as can be held against the others together."""
    strange, chosen = torch.zeros_like(candidate), torch.zeros_like(candidate)
    rows = torch.bincount(cell, minlength=len(candidate))
    candidates = torch.nonzero(candidate & (rows >= FEWEST_ROWS)).flatten().tolist()
    exceeded = {one: float(torch.quantile(raw[cell == one], 1.0 - MOST)) for one in candidates}
    for one in sorted(candidates, key=exceeded.__getitem__, reverse=True):
        chosen[one] = True
        others = raw[~chosen[cell]]
        if len(others) < (1.0 - MOST_ROWS) * len(raw):
            break
        if (others > exceeded[one]).sum() <= STRANGE * len(others):
            strange = chosen.clone()
    return strange


def comes_again(cell: Tensor, count: int) -> Tensor:
    """Which of `count` cells have rows in several parts of the time, by the `cell` of each row [n] in its order."""
    rows = torch.bincount(cell * PARTS + part_of(cell), minlength=count * PARTS).reshape(count, PARTS)
    return (rows > HERE * rows.sum(dim=1, keepdim=True)).sum(dim=1) >= TIMES


def comes_among_others(marked: Tensor) -> bool:
    """Whether of rows in the order of time most that are `marked` [n] are in parts of it in which most are not."""
    part = part_of(marked)
    rows, inside = torch.bincount(part, minlength=PARTS), torch.bincount(part[marked], minlength=PARTS)
    return bool(2 * inside[2 * inside <= rows].sum() >= inside.sum())


def part_of(rows: Tensor) -> Tensor:
    """The part of the time, from 0 to `PARTS` - 1, of each of the rows [n, ...] in its order [n]."""
    return torch.arange(len(rows), device=rows.device) * PARTS // len(rows)


def into_cells(points: Tensor, count: int, draws: Draws) -> Tensor:
    """The cell, from 0 to `count` - 1, of each of the points [k, s], by k-means from centres far from each other
    (k-means++, Arthur and Vassilvitskii 2007), so that a few points far from the others get one of their own."""
    centre = points[draws.rows(len(points), 1)]
    for _ in range(count - 1):
        away = torch.cdist(points, centre).amin(dim=1).pow(2).cumsum(0)
        drawn = torch.searchsorted(away, draws.uniform(1) * away[-1])
        centre = torch.cat([centre, points[drawn.clamp(max=len(points) - 1)]])
    cell = torch.cdist(points, centre).argmin(dim=1)
    for _ in range(STEPS):
        centre = centroids(points, cell, centre)
        cell = torch.cdist(points, centre).argmin(dim=1)
    return cell
