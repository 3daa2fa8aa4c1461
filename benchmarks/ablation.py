"""The detector with one part taken out in turn: what each idea brings.

A variant is a method like any other. All but three share the fitted stages and differ in what the head sees, so a
data set is fitted four times, not once for each variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from benchmarks.peers import Float64, Method, Scorer
from stream_ad.detector import Recipe, fitting
from stream_ad.detector.descriptors import Ranks
from stream_ad.detector.draws import Draws
from stream_ad.detector.fitting import Flagged, Stages
from stream_ad.detector.folds import Window
from stream_ad.detector.hierarchical import WEIGHTS
from stream_ad.detector.statistics import NAMES

RECIPE = Recipe()
CPU = torch.device("cpu")
Patch = tuple[object, str, Callable[..., object]]

AUTOENCODERS = tuple(name for name in NAMES if name.startswith("residual"))
VAE = ("vae_error", "latent_distance", "latent_divergence")
RARITY = ("rarity_sum", "rarity_largest")
CODE_BOOK = ("nearest_prototype", "nearest_by_group", "relative_distance")
NOVELTY = ("unseen_value", "unseen_pairs")


@lru_cache(maxsize=4)
def fitted(train: bytes, shape: tuple[int, int], seed: int, patched: str, recipe: Recipe) -> tuple[Stages, Tensor]:
    """Stages fitted on the rows in `train`, with one of the `PATCHES`, and the rows."""
    x = torch.frombuffer(bytearray(train), dtype=torch.float64).reshape(shape)
    with patches(PATCHES[patched]), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        window = Window(x, torch.zeros(len(x)))
        stages = fitting.fit_and_hold_out(
            window, recipe, Draws(seed, CPU), seed, Flagged.none(x), x[:0], lambda share: None
        )
        return stages, x


@contextmanager
def patches(changes: tuple[Patch, ...]) -> Iterator[None]:
    """Other functions in place of the detector's own, for as long as this lasts."""
    kept = [(place, name, getattr(place, name)) for place, name, _ in changes]
    for place, name, function in changes:
        setattr(place, name, function)
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def without_ranks(ranks: Ranks, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    score, place, known = RANKS_FORWARD(ranks, x)
    return torch.zeros_like(score), place, known


def any_rows(distance: Tensor, share: float) -> Tensor:
    """As many rows as the outskirts have, wherever they lie."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(distance.shape[0], generator=generator)[: max(1, round(share * distance.shape[0]))]


RANKS_FORWARD = Ranks.forward
PATCHES: dict[str, tuple[Patch, ...]] = {
    "nothing": (),
    "ranks": ((Ranks, "forward", without_ranks),),
    "outskirts": ((fitting, "select_outskirts", any_rows),),
}


def gaussian_noise(v: Tensor, draws: Draws) -> Tensor:
    """Training rows with noise of one to three spreads on them."""
    rows = v[draws.rows(v.shape[0], RECIPE.synthetic_outliers)]
    return rows + (1.0 + 2.0 * draws.uniform(rows.shape[0], 1)) * draws.normal(*rows.shape)


def uniform_noise(v: Tensor, draws: Draws) -> Tensor:
    """Rows from all over the box that the training rows span, a tenth wider on each side."""
    low, high = v.amin(dim=0), v.amax(dim=0)
    u = 1.2 * draws.uniform(RECIPE.synthetic_outliers, v.shape[1]) - 0.1
    return low + u * (high - low)


def without(
    train: Float64,
    seed: int,
    patched: str = "nothing",
    statistics: tuple[str, ...] = (),
    logit: bool = True,
    outliers: Callable[[Tensor, Draws], Tensor] | None = None,
    recipe: Recipe = RECIPE,
) -> Scorer:
    """Fit with the stages patched, the named statistics neither shown to the classifier nor counted, the logit
    counted or not, and the synthetic outliers or the recipe replaced."""
    shared, x = fitted(train.tobytes(), train.shape, seed, patched, recipe)
    stages = deepcopy(shared)
    detector, draws = stages.detector, Draws(seed, CPU)
    if outliers:
        with torch.no_grad():
            v = detector.describe(x)[0]
        stages.outliers = fitting.complete_statistics(detector, outliers(v, draws))
    hidden = [NAMES.index(name) for name in statistics if name in NAMES]
    for rows in (stages.statistics, stages.outliers):
        rows[:, hidden] = 1.0
    uncounted = {*statistics, *(() if logit else ("logit",))}
    detector.part_weight.copy_(torch.tensor([0.0 if name in uncounted else weight for name, weight in WEIGHTS]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fitting.fit_head(stages, recipe, draws, lambda share: None)

    def score(rows: Float64) -> Float64:
        with patches(PATCHES[patched]), torch.no_grad():
            found, novel = detector.measure(torch.from_numpy(rows))
            found[:, hidden] = 1.0
            return detector.combine(detector.parts(found, novel)).numpy()

    return score


VARIANTS: dict[str, Method] = {
    "without autoencoders": partial(without, statistics=AUTOENCODERS),
    "without VAE": partial(without, statistics=VAE),
    "without conditional rarity": partial(without, statistics=RARITY),
    "without novelty": partial(without, statistics=NOVELTY),
    "without relations": partial(without, statistics=("relations",)),
    "without code-book": partial(without, statistics=CODE_BOOK),
    "without classifier": partial(without, logit=False),
    "without ranks": partial(without, patched="ranks"),
    "VAE on both codes, fused": partial(without, recipe=replace(RECIPE, fuse_codes=True)),
    "any rows for outskirts": partial(without, patched="outskirts"),
    "Gaussian noise for synthesis": partial(without, outliers=gaussian_noise),
    "uniform noise for synthesis": partial(without, outliers=uniform_noise),
    "residuals alone": partial(without, statistics=(*VAE, *RARITY, *NOVELTY, *CODE_BOOK, "relations"), logit=False),
    "classifier alone": partial(without, statistics=tuple(name for name, _ in WEIGHTS if name not in NAMES)),
}
