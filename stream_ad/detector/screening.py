"""Screening: stretches of the window that look like nothing else in it, such as a burst of anomalies."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stream_ad.detector.descriptors import normal_score

FEWEST_ROWS = 200
"""In smaller windows nothing can be said of stretches, and of shorter sequences not where their centre is."""
BLOCKS = 8
ROWS_OF_EACH = 512
"""Of a block or a stretch: enough to hold some of each of hundreds of kinds of rows."""
FAR_OFF, BROKEN = 0.5, 1.0
"""Half of how much stranger, in normal scores, the rows of a burst are than the others: by their place among the rows
of other blocks, and by the most improbable of their values given the others."""
SURE_FAR_OFF, SURE_BROKEN = 10.0, 28.0
"""A burst is found where there is none once in exp(10) windows. Of broken relations more is asked: here they are
straight lines, and where those of the plant are bent a rare operating point leaves them, too."""
LONGEST = 1.0 / BLOCKS
"""A stretch that took longer than this share of the window's time is a regime of its own and no burst."""
STRETCHES = (64, 32)
"""Of so many the means tell how alike neighbours are. Of short ones there are more, but where a plant moves slowly each
lies within one of its moves."""
ALIKE = 5.0
"""Where not even so many rows count as one, longer stretches would tell nothing but chance."""
MOST_BURSTS = 3
MOST_STRETCHES = 8
NEARLY = 0.5
"""Stretches that are this strange at least, of what is asked of a burst, are told to which others they are alike."""
CLEARLY = 1.5
"""Times what the median tells of how far stretches differ: beyond that some of them differ much, not all of them."""


def find_bursts(
    position: Tensor, surprise: Tensor, sequence: Tensor, stands_for: Tensor, generator: torch.Generator
) -> Tensor:
    """Rows [n, s] in time order, the surprise of each of their values given the others [n, d], the `sequence` [n] to
    which each belongs, such as that of a record key, and how many rows of the stream it `stands_for` [n] -> true [n]
    for those in a burst.

    Two kinds are looked for. Rows of a burst vouch for each other, so each row is held against the other blocks of the
    window alone. But in a stream whose places wander much a short fault is nowhere far off; there a sensor that
    leaves the others shows it. What comes more often than there may be bursts, and is alike each time, is none.
    """
    order = sequence.argsort(stable=True)
    far_off, broken = (
        beyond_the_usual(strangeness, sequence)[order]
        for strangeness in (strangeness_to_other_blocks(position, generator), normal_scores(surprise.amax(dim=1)))
    )
    took, position = stands_for[order], position[order]
    burst = torch.zeros(len(order), dtype=torch.bool, device=position.device)
    for found in (
        stretches(far_off, took, FAR_OFF, SURE_FAR_OFF, deviation),
        stretches(broken, took, BROKEN, SURE_BROKEN, robust_deviation),
    ):
        for rows in single(found, position, generator)[:MOST_BURSTS]:
            burst[rows] = True
    return burst[order.argsort()]


def around_one_centre(x: Tensor, sequence: Tensor) -> Tensor:
    """x [n, d], NaN for missing, with each sequence's median moved to that of all rows: what sets one machine apart
    from the others hides what is strange for it. Where too few rows show no centre they stay where they are."""
    order = sequence.argsort(stable=True)
    count = torch.unique_consecutive(sequence[order], return_counts=True)[1].tolist()
    centre = x.nanmedian(dim=0).values
    moved = x.clone()
    for rows in order.split(count):
        if len(rows) >= FEWEST_ROWS:
            moved[rows] += centre - x[rows].nanmedian(dim=0).values
    return moved


def beyond_the_usual(strangeness: Tensor, sequence: Tensor) -> Tensor:
    """Strangeness [n] less what is usual in the row's sequence [n], its median, where that is strange itself: a machine
    that is less steady than the others all the time has no burst."""
    order = strangeness.argsort()
    order = order[sequence[order].argsort(stable=True)]
    count = torch.unique_consecutive(sequence[order], return_counts=True)[1]
    median = strangeness[order][count.cumsum(0) - count + (count - 1) // 2]
    beyond = strangeness.clone()
    beyond[order] -= median.clamp(min=0.0).repeat_interleave(count)
    return beyond


def stretches(
    strangeness: Tensor, took: Tensor, expected: float, certainty: float, spread: Callable[[Tensor], float]
) -> list[tuple[Tensor, bool]]:
    """Normal scores [n] in time order, and the time that each row took [n] -> the rows of each stretch that is strange,
    the strangest first, and whether it is too strange for chance.

    Single anomalies may look no stranger than many inliers do, but many in a row are improbable: a burst is the
    stretch with the largest sum of strangeness, less what half is `expected` of each of its rows (the cumulative sum
    test, Page 1954). Where neighbours in time are alike, as in most streams, sums wander further, and more is asked of
    them: by the `spread` of the means of short stretches beside this one.
    """
    n = strangeness.shape[0]
    found = []
    needed = (math.log(n) + certainty) / (2.0 * expected)
    steps, certain = strangeness - expected, True
    for _ in range(MOST_STRETCHES):
        start, end, gain = largest_sum(steps)
        steps[start:end] = -torch.inf
        limit = needed * correlation_length(strangeness, steps.isfinite(), spread)
        certain = certain and gain >= limit
        if gain < NEARLY * limit:
            break
        if took[start:end].sum() <= LONGEST * took.sum():
            found.append((torch.arange(start, end, device=strangeness.device), certain))
    return found


def single(stretches: list[tuple[Tensor, bool]], position: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Those of the stretches of rows [n, s] that are certain and do not come again: of the others fewer than
    `MOST_BURSTS` are their like, which two are if the rows of each are nearer to the other's than to as many of no
    stretch."""
    if len(stretches) <= MOST_BURSTS:
        return [rows for rows, certain in stretches if certain]
    ordinary = torch.ones(len(position), dtype=torch.bool, device=position.device)
    ordinary[torch.cat([rows for rows, _ in stretches])] = False
    others = some_of(position[ordinary], generator)
    samples = [some_of(position[rows], generator) for rows, _ in stretches]
    nearer = torch.tensor([[away(own, one) < away(own, others[: len(one)]) for one in samples] for own in samples])
    alike = (nearer & nearer.T).sum(dim=1) - 1  # each is its own like
    again = (alike >= MOST_BURSTS).tolist()
    return [rows for (rows, certain), comes in zip(stretches, again, strict=True) if certain and not comes]


def away(rows: Tensor, others: Tensor) -> float:
    """The distance that half of the rows [n, s] have to the nearest of others [m, s]."""
    return float(torch.cdist(rows, others).amin(dim=1).median())


def some_of(rows: Tensor, generator: torch.Generator) -> Tensor:
    """At most `ROWS_OF_EACH` of the rows [n, s], in random order."""
    return rows[torch.randperm(rows.shape[0], generator=generator)[:ROWS_OF_EACH].to(rows.device)]


def strangeness_to_other_blocks(position: Tensor, generator: torch.Generator) -> Tensor:
    """[n, s] -> normal scores [n] of each row's distance to the rows of other blocks of the window, by the block in
    the middle of all."""
    n = position.shape[0]
    block = torch.arange(n, device=position.device) * BLOCKS // n
    distance = position.new_full((n, BLOCKS), torch.nan)
    for b in range(BLOCKS):
        rows = some_of(position[block == b], generator)
        nearest = torch.cat([torch.cdist(part, rows).amin(dim=1) for part in position.split(2048)])
        distance[:, b] = torch.where(block == b, torch.nan, nearest)
    return normal_scores(distance.nanmedian(dim=1).values)


def normal_scores(values: Tensor) -> Tensor:
    """[n] -> float64 [n]: what a standard normal variable would show in place of each, by its rank."""
    rank = values.argsort(stable=True).argsort()
    return normal_score(rank.to(torch.float64) + 0.5, values.shape[0]).to(torch.float64)


def correlation_length(strangeness: Tensor, usual: Tensor, spread: Callable[[Tensor], float]) -> float:
    """How many rows count as one where neighbours are alike: by how far the means of stretches of strangeness [n]
    differ, of those whose rows are all `usual` [n]."""
    n = strangeness.shape[0]
    found = 1.0
    for parts in STRETCHES:
        length = max(8, n // parts)
        stretches = n // length
        whole = usual[: stretches * length].reshape(stretches, length).all(dim=1)
        means = strangeness[: stretches * length].reshape(stretches, length)[whole].mean(dim=1)
        if len(means) > 1:
            found = max(found, length * spread(means) ** 2)
        if found < ALIKE:
            break
    return found


def deviation(means: Tensor) -> float:
    """Standard deviation of the means [k] of stretches, if it is clearly larger than the robust one: what comes again,
    such as an operating point, has a part in it, and is no burst."""
    plain, robust = float(means.std()), robust_deviation(means)
    return plain if plain > CLEARLY * robust else robust


def robust_deviation(means: Tensor) -> float:
    """From the median of the absolute ones: a sensor that leaves the others again and again is no operating point."""
    return 1.4826 * float((means - means.median()).abs().median())


def largest_sum(steps: Tensor) -> tuple[int, int, float]:
    """Start, end (not in it) and sum of the stretch of steps [n] with the largest sum."""
    walk = torch.cat([steps.new_zeros(1), steps.nan_to_num(neginf=-1e6).cumsum(0)])
    lowest = walk.cummin(dim=0)
    gain = walk - lowest.values
    end = int(gain.argmax())
    return int(lowest.indices[end]), end, float(gain[end])
