"""The detector with one part taken out in turn is the detector in all else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import pytest
import torch

from benchmarks.ablation import VARIANTS, without
from stream_ad.detector.fitting import fit_hierarchical_detector
from stream_ad.detector.folds import Window
from tests.running import BRIEF


def rows(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, 5))
    x[:, 3] = np.round(x[:, 3])  # values that are seen or not
    x[:, 4] = 0.9 * x[:, 0] + 0.1 * x[:, 4]
    return x


def test_nothing_taken_out_is_the_whole_detector() -> None:
    train, test = rows(600, 0), rows(200, 1)
    whole, _ = fit_hierarchical_detector(Window(torch.from_numpy(train), torch.zeros(600)), BRIEF, 0.01, 0)
    with torch.no_grad():
        expected = whole.raw_score(torch.from_numpy(test))[0]
    # Its classifier begins at other random weights.
    assert np.allclose(without(train, 0, recipe=BRIEF)(test), expected.numpy(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_part_taken_out_changes_some_scores_and_finds_what_is_far_out(name: str) -> None:
    train, test = rows(600, 0), rows(200, 1)
    test[:20] += 6.0
    variant = cast(partial, VARIANTS[name])
    recipe = replace(BRIEF, fuse_codes=variant.keywords.get("recipe", BRIEF).fuse_codes)
    score = variant(train, 0, recipe=recipe)(test)
    assert np.isfinite(score).all()
    assert not np.array_equal(score, without(train, 0, recipe=BRIEF)(test))
    assert score[:20].min() > np.median(score[20:])
