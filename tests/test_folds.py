"""Rows that are held out show what the next hour will show: nothing of them was learned from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stream_ad.detector.folds import LEAST_HELD, Window, into_folds, near_another


def window(n: int, machines: int, past: int) -> Window:
    return Window(torch.zeros(n, 2, dtype=torch.float64), torch.arange(n) % machines, past)


def nearest_of_another(fold: Tensor, held: Tensor, sequence: Tensor) -> int:
    """Fewest rows of one sequence from a held row to one of another fold."""
    nearest = len(fold)
    for one in sequence.unique():
        of_one, held_of_one = fold[sequence == one], held[sequence == one]
        for which in range(int(fold.max()) + 1):
            own, others = torch.nonzero(held_of_one == which), torch.nonzero(of_one != which)
            if len(own) and len(others):
                nearest = min(nearest, int((own - others.T).abs().min()))
    return nearest


def test_without_a_past_every_row_is_held_out_in_its_fold() -> None:
    folds = into_folds(window(8000, 3, 0), 2, 0)
    assert torch.equal(folds.fold, folds.held)
    assert torch.equal(folds.fold.bincount(), torch.tensor([4000, 4000]))
    for machines in (1, 8000):
        assert torch.equal(into_folds(window(8000, machines, 0), 2, 0).fold, folds.fold), "however many machines"


def test_what_is_held_out_has_nothing_of_other_folds_in_its_past_nor_they_of_it() -> None:
    for machines in (1, 10, 50):
        for count in (2, 3):
            of_machines = window(6000, machines, 16)
            folds = into_folds(of_machines, count, 0)
            assert nearest_of_another(folds.fold, folds.held, of_machines.sequence) == 17
            held = folds.held >= 0
            assert float(held.to(torch.float32).mean()) > 0.4
            assert torch.equal(folds.fold[held], folds.held[held])


def test_many_machines_get_few_blocks_since_each_has_few_rows_of_a_machine() -> None:
    for machines, blocks in ((1, 8), (60, 6), (400, 2)):
        fold = into_folds(window(24_000, machines, 16), 2, 0).fold
        assert int((fold.diff() != 0).sum()) in range(blocks // 2 - 1, blocks)


def test_of_rows_that_are_all_beside_others_all_are_held_out() -> None:
    folds = into_folds(window(8000, 400, 64), 2, 0)
    assert torch.equal(folds.fold, folds.held)
    assert 0.0 < LEAST_HELD < 1.0


def test_rows_of_other_sequences_are_not_near() -> None:
    fold, sequence = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([7, 8, 7, 8, 7, 8])
    assert near_another(fold, sequence, 1, torch.ones(6)).tolist() == [False, True, True, True, True, False]
    assert not near_another(fold, torch.tensor([1, 1, 1, 2, 2, 2]), 5, torch.ones(6)).any()
    assert not near_another(fold, sequence, 0, torch.ones(6)).any()


def fading(n: int, complete: int, ratio: float) -> Tensor:
    """What each of n rows stands for, of which the last so many are complete and the oldest is this much rarer."""
    return torch.cat([torch.logspace(0.0, math.log10(ratio), n - complete).flip(0), torch.ones(complete)]).double()


def test_what_has_faded_is_dealt_out_in_blocks_of_the_same_time_as_what_has_not() -> None:
    stands_for = fading(8000, 2000, 100.0)
    rows = Window(torch.zeros(8000, 2), torch.zeros(8000), 0, stands_for)
    for seed in range(5):
        fold = into_folds(rows, 2, seed).fold
        for operating_point in fold[:3000].split(300):
            assert 60 < int(operating_point.sum()) < 240, "both learned and held out"
        changes = torch.nonzero(fold.diff()).flatten() + 1
        assert int((changes >= 6000).sum()) <= 2, "of the latest rows a block still holds a thousand"


def test_of_rows_that_have_faded_only_those_are_near_that_were() -> None:
    fold, one = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.zeros(8)
    near = near_another(fold, one, 3, torch.tensor([2.0] * 4 + [1.0] * 4))
    assert near.tolist() == [False, False, True, True, True, True, True, False]
