"""Fitting the detector: one flat pass through the stages, then calibration on rows kept out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_ad.detector.autoencoder import corrupt
from stream_ad.detector.codebook import GROUPS
from stream_ad.detector.draws import Draws
from stream_ad.detector.folds import ALONE, Folds, Window, in_the_past, into_folds
from stream_ad.detector.hierarchical import (
    EXTREMES,
    LIKENESS,
    NOVELTY,
    PARTS,
    WEIGHTS,
    HierarchicalDetector,
    prototypes_for,
)
from stream_ad.detector.kinds import usual_by_kind
from stream_ad.detector.mondrian import MondrianCalibration
from stream_ad.detector.outskirts import select_outskirts
from stream_ad.detector.rarity import BINS
from stream_ad.detector.recipe import Recipe
from stream_ad.detector.screening import FEWEST_ROWS, around_one_centre, find_bursts
from stream_ad.detector.synthesis import Synthesiser

LEAST_ROWS = 8
LABEL_WEIGHT = 50
"""So many synthetic outliers one labelled anomaly stands for, as long as they are not more than half of all."""
LABELS_AT_HALF = 10
"""Labelled anomalies with which likeness has half of its weight, which is that of all other parts together."""
Progress = Callable[[float], None]
"""Called with the share done, 0 to 1."""


class TrainingError(ValueError):
    """The rows cannot be learned from; the message says why."""


@dataclass(slots=True)
class Flagged:
    """Rows that the model before this one flagged, but not strongly: they help to calibrate, not to train.

    Without them the window is cut off at the old threshold, and each retrain would add about alpha to the
    false-alarm rate.
    """

    rows: Tensor
    """[k, d]"""
    place: Tensor
    """[k] how many rows of the window came before each."""
    sequence: Tensor
    """[k] see `Window.sequence`."""
    truncated: float
    """Share of the inliers that were flagged more strongly than these and are in neither."""

    @classmethod
    def none(cls, x: Tensor) -> Flagged:
        """No rows of the width, type and device of x [n, d]."""
        empty = torch.empty(0, dtype=torch.int64, device=x.device)
        return cls(x[:0], empty, empty, 0.0)


def fit_hierarchical_detector(
    window: Window,
    recipe: Recipe,
    alpha: float,
    seed: int,
    flagged: Flagged | None = None,
    anomalies: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> tuple[HierarchicalDetector, MondrianCalibration]:
    """Fit all stages on a window of inliers [n, d] and known anomalies [k, d], and what calibrates strange keys.

    The device is that of the window. Raises `TrainingError` for fewer than eight rows.
    """
    x = window.rows
    n = x.shape[0]
    if n < LEAST_ROWS:
        raise TrainingError(f"{n} rows are too few to learn from: at least {LEAST_ROWS} are needed")
    if flagged is None:
        flagged = Flagged.none(x)
    if anomalies is None:
        anomalies = x[:0]
    draws = Draws(seed, x.device)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        stages = fit_and_hold_out(window, recipe, draws, seed, flagged, anomalies, part_of(progress, 0, 2))
        fit_head(stages, recipe, draws, part_of(progress, 1, 2))
    detector = stages.detector
    with torch.no_grad():
        raw = detector.combine(detector.parts(stages.statistics, stages.compared))
        usual = fit_kinds(detector, window, stages, raw, draws)
        held = raw = raw - usual
        if stages.trained_on is not None:
            # Rows of a few states, over and over: what one model says of a state, another says but nearly.
            own = detector.combine(detector.parts(*stages.trained_on)) - usual
            raw = torch.maximum(raw.sort().values, own.sort().values)
        repeated = bool(stages.statistics[:, detector.nearest_column].median() == 0.0)
        detector.calibration.fit(raw, alpha, flagged.truncated, repeated)
        p_value = detector.calibration(held)[1]
    return detector.eval(), MondrianCalibration.fit(p_value.cpu().numpy(), stages.sequence.cpu().numpy())


def bursts_in(window: Window, recipe: Recipe, seed: int) -> Tensor:
    """Rows [n] of the window that should not be learned from: those in a burst, and those of the same sequence that
    have it in their past.

    A burst may be a stretch of the window, or of one sequence only, between whose rows come those of others. These may
    be its like, or machines with centres of their own. See `screening.find_bursts`.
    """
    x, sequence = window.rows, window.sequence
    burst = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    if x.shape[0] < FEWEST_ROWS:
        return burst
    looks = [(x, [torch.zeros_like(sequence)])]
    if (sequence != sequence[0]).any():
        looks[0][1].append(sequence)
        looks.append((around_one_centre(x, sequence), [sequence]))
    generator = torch.Generator().manual_seed(seed)
    for rows, sequences in looks:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            describing = HierarchicalDetector(x.shape[1], GROUPS, recipe).to(x.device)
            v = fit_descriptors(describing, rows)
            position, surprise = describing.position_of(v), describing.impute.surprise(v[:, : x.shape[1]])
        for of_sequence in sequences:
            burst |= find_bursts(position, surprise, of_sequence, window.stands_for, generator)
    return in_the_past(burst & (sequence != ALONE), sequence, window.past)


@dataclass(slots=True)
class Stages:
    """The fitted stages, and what they say of rows that they have not seen."""

    detector: HierarchicalDetector
    rows: Tensor
    """[n, d] that were held out, flagged ones among them."""
    outliers: Tensor
    """[m, 16] statistics of synthetic outliers."""
    statistics: Tensor
    """[n, 16] of these."""
    compared: Tensor
    """[n, 4] novelty, likeness and broken relations."""
    is_flagged: Tensor
    """[n]"""
    sequence: Tensor
    """[n] see `Window.sequence`."""
    anomalies: Tensor
    """[k, 16] statistics of known anomalies, which none of the stages was trained on."""
    trained_on: tuple[Tensor, Tensor] | None
    """Statistics and what is compared of the same rows, if others than these stages measured them: these were trained
    on them."""


def fit_and_hold_out(
    window: Window, recipe: Recipe, draws: Draws, seed: int, flagged: Flagged, anomalies: Tensor, progress: Progress
) -> Stages:
    """Fit the stages on one part of the window and measure the rest; of a small window fit them on all of it, and
    measure each part by stages that were fitted on the others."""
    x, trained_on = window.rows, None
    if x.shape[0] >= recipe.cross_fit_below:
        folds = into_folds(window, round(1.0 / recipe.calibration_share), seed)
        detector, outliers = fit_stages(x[folds.fold != 0], anomalies, recipe, draws, progress)
        held = [held_out(detector, window, flagged, folds, 0)]
    else:
        count = recipe.cross_fit_folds
        folds = into_folds(window, count, seed)
        held, unknown = [], torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        for i in range(count):
            part = fit_stages(x[folds.fold != i], anomalies, recipe, draws, part_of(progress, i, count + 1))[0]
            held.append(held_out(part, window, flagged, folds, i))
            unknown |= part.standardise.unknown
        # Features that came so late that only rows which do not know them are left to calibrate by.
        x = torch.where(unknown, torch.nan, x)
        detector, outliers = fit_stages(x, anomalies, recipe, draws, part_of(progress, count, count + 1))
        trained_on = measure(detector, torch.cat([of_fold[0] for of_fold in held]))
    rows, statistics, compared, is_flagged, sequence = (torch.cat(each) for each in zip(*held, strict=True))
    of_anomalies = measure(detector, anomalies)[0] if anomalies.shape[0] else statistics[:0]
    return Stages(detector, rows, outliers, statistics, compared, is_flagged, sequence, of_anomalies, trained_on)


def held_out(
    detector: HierarchicalDetector, window: Window, flagged: Flagged, folds: Folds, which: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The rows held out in one fold and the flagged rows that fell between them, what `measure` says of them, which are
    which, and the sequence of each."""
    own, extra = folds.held == which, folds.held[place_in(flagged, window.rows)] == which
    rows = torch.cat([window.rows[own], flagged.rows[extra]])
    sequence = torch.cat([window.sequence[own], flagged.sequence[extra]])
    is_flagged = torch.arange(len(rows), device=rows.device) >= own.sum()
    return rows, *measure(detector, rows), is_flagged, sequence


def place_in(flagged: Flagged, x: Tensor) -> Tensor:
    """The row of x [n, d] that followed each flagged row [k], or the last."""
    return flagged.place.clamp(max=x.shape[0] - 1)


def measure(detector: HierarchicalDetector, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `HierarchicalDetector.measure`, a few rows at a time."""
    with torch.no_grad():
        statistics, compared = zip(*(detector.measure(part) for part in x.split(2048)), strict=True)
    return torch.cat(statistics), torch.cat(compared)


def part_of(progress: Progress, index: int, parts: int) -> Progress:
    return lambda share: progress((index + share) / parts)


def fit_stages(
    x: Tensor, anomalies: Tensor, recipe: Recipe, draws: Draws, progress: Progress
) -> tuple[HierarchicalDetector, Tensor]:
    """All stages up to the statistics, in the order of the paper; with them the statistics of synthetic outliers."""
    n, d = x.shape
    detector = HierarchicalDetector(d, prototypes_for(n, recipe), recipe).to(x.device)
    v = fit_codebook(detector, x, fit_descriptors(detector, x), draws)
    with torch.no_grad():
        w = detector.whiten(v[:, :d])
        detector.relations.fit(v[:, :d])
        detector.rarity.fit_bins(v[:, :d])
        known = detector.describe(anomalies)[0]
        detector.examples.fit(detector.position_of(known))
    fit_autoencoders(detector, v, w, recipe, draws, part_of(progress, 0, 3))
    fit_rarity(detector, v[:, :d], recipe, draws, part_of(progress, 1, 3))
    with torch.no_grad():
        codes = detector.codes(detector.autoencoder_v.encode(v), detector.autoencoder_w.encode(w))
        detector.fusion.fit(codes)
        fused = detector.fusion(codes)
    fit_vae(detector, fused, recipe, draws, part_of(progress, 2, 3))
    with torch.no_grad():
        outliers = synthesise(detector, v, fused, recipe, draws)
    return detector, complete_statistics(detector, outliers)


def complete_statistics(detector: HierarchicalDetector, v: Tensor) -> Tensor:
    """Statistics [m, 16] of rows V [m, 2d] in which nothing is missing."""
    nothing = torch.zeros(v.shape[0], v.shape[1] // 2, dtype=torch.bool, device=v.device)
    pairs = zip(v.split(2048), nothing.split(2048), strict=True)
    with torch.no_grad():
        return torch.cat([detector.statistics(*pair)[0] for pair in pairs])


def fit_head(stages: Stages, recipe: Recipe, draws: Draws, progress: Progress) -> None:
    """Scale, classify and weigh the statistics of inliers held out, against those of synthetic outliers.

    On the rows that the stages were trained on, and on near copies of them, statistics look better than they ever
    will again.
    """
    detector = stages.detector
    inliers, compared = stages.statistics[~stages.is_flagged], stages.compared[~stages.is_flagged]
    with torch.no_grad():
        detector.normalise.fit(inliers)
        inlier = detector.normalise(inliers)
        outlier = detector.normalise(torch.cat([stages.outliers, weighted(stages.anomalies, stages.outliers.shape[0])]))
    fit_classifier(detector, inlier, outlier, recipe, draws, progress)
    with torch.no_grad():
        parts = detector.parts(inliers, compared)
        low, high = torch.quantile(parts, 0.5, dim=0), torch.quantile(parts, 0.95, dim=0)
        detector.part_low.copy_(low)
        for name, quantile in EXTREMES.items():
            part = PARTS.index(name)
            detector.part_low[part] = torch.quantile(parts[:, part], quantile)
        detector.part_range.copy_((high - low).clamp(min=0.5))
        # What most inliers have none of must not outweigh all else where some have it.
        detector.part_range[NOVELTY] = torch.maximum(detector.part_range[NOVELTY], 3.0 * compared[:, :2].std(dim=0))
        known = stages.anomalies.shape[0]
        others = sum(weight for name, weight in WEIGHTS if name not in EXTREMES)
        detector.part_weight[LIKENESS] = others * known / (known + LABELS_AT_HALF)
        flush_denormals(detector)


def fit_kinds(detector: HierarchicalDetector, window: Window, stages: Stages, raw: Tensor, draws: Draws) -> Tensor:
    """Learn what is usual around each prototype from the raw scores [m] of the rows held out; return it for each of
    these rows [m]."""
    codebook = detector.codebook
    held, of_window = (
        torch.cat([codebook.nearest_number(detector.position_of(detector.describe(part)[0])) for part in x.split(2048)])
        for x in (stages.rows, window.rows)
    )
    usual = usual_by_kind(codebook.prototypes(), held, raw, of_window, window.sequence, draws)
    codebook.usual[: codebook.count] = usual
    return codebook.usual[held]


def weighted(anomalies: Tensor, synthetic: int) -> Tensor:
    """Statistics [k, 16] of known anomalies as often as they count among so many synthetic outliers."""
    return anomalies.repeat(min(LABEL_WEIGHT, synthetic // max(1, anomalies.shape[0])), 1)


def fit_descriptors(detector: HierarchicalDetector, x: Tensor) -> Tensor:
    """Fit what describes a row before anything is trained; return V [n, 2d] of the training rows."""
    with torch.no_grad():
        detector.standardise.fit(x)
        a = detector.standardise(x)
        missing = detector.standardise.missing(x)
        detector.impute.fit(a)
        known = torch.where(missing, torch.nan, detector.standardise.without_rounding(x, a))
        distinct = detector.ranks.fit(known)
        v, place, _ = detector.fill(x)
        detector.novelty.fit(place, distinct, missing)
        detector.whiten.fit(v[:, : x.shape[1]])
    return v


def fit_codebook(detector: HierarchicalDetector, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
    """Fit the code-book to rows x [n, d], described as V [n, 2d]; return V with gaps filled in by its help."""
    d = x.shape[1]
    gap = (torch.isnan(x) & ~detector.standardise.unknown).any(dim=1)
    with torch.no_grad():
        position = detector.position_of(v)
        if bool(gap.any()):
            # Rows without a gap tell first what the others are like.
            whole = position[~gap]
            detector.codebook.fit(whole if whole.shape[0] >= detector.codebook.count else position, draws)
            v = detector.describe(x)[0]
            detector.whiten.fit(v[:, :d])
            position = detector.position_of(v)
        detector.codebook.fit(position, draws)
    return v


def synthesise(detector: HierarchicalDetector, v: Tensor, fused: Tensor, recipe: Recipe, draws: Draws) -> Tensor:
    """Synthetic outliers [m, 2d] from the posteriors on the outskirts of the training rows V [n, 2d]."""
    mu, log_variance = detector.vae.encode(fused)
    detector.latent_spread.fit(mu)
    outskirts = select_outskirts(detector.latent_spread(mu), recipe.outskirts_share)
    synthesiser = Synthesiser(
        detector.whiten,
        detector.autoencoder_v,
        detector.autoencoder_w,
        detector.fusion,
        detector.vae,
        mu[outskirts],
        log_variance[outskirts],
        mu.mean(dim=0),
    )
    half = recipe.synthetic_outliers // 2
    return torch.cat([synthesiser.outside(half, draws), synthesiser.substitute(half, v, draws)])


def fit_autoencoders(
    detector: HierarchicalDetector,
    v: Tensor,
    w: Tensor,
    recipe: Recipe,
    draws: Draws,
    progress: Progress,
) -> None:
    """Both denoising autoencoders in one optimiser: smooth L1 from the corrupted to the clean descriptor."""
    both = nn.ModuleList([detector.autoencoder_v, detector.autoencoder_w])
    steps = fewer_steps(recipe.autoencoder_steps, v.shape[1])
    for step in optimise(both, 2e-3, 1e-5, steps, progress):
        rows = draws.rows(v.shape[0], recipe.batch)
        loss = torch.zeros((), device=v.device)
        for autoencoder, descriptor in ((detector.autoencoder_v, v), (detector.autoencoder_w, w)):
            clean = descriptor[rows]
            shown = corrupt(clean, draws)
            loss = loss + F.smooth_l1_loss(autoencoder.decode(autoencoder.encode(shown)), clean)
        step(loss)


def fit_rarity(detector: HierarchicalDetector, a: Tensor, recipe: Recipe, draws: Draws, progress: Progress) -> None:
    steps = fewer_steps(recipe.rarity_steps, BINS * a.shape[1])
    for step in optimise(detector.rarity, 2e-3, 1e-3, steps, progress):
        step(detector.rarity.loss(a[draws.rows(a.shape[0], recipe.batch)], draws))


def fewer_steps(steps: int, inputs: int) -> int:
    """As many steps as a thousand inputs would get at the same price, but a tenth at least: very wide rows must not
    make a training endless."""
    return min(steps, max(steps // 10, 30, steps * 1000 // inputs))


def fit_vae(
    detector: HierarchicalDetector,
    fused: Tensor,
    recipe: Recipe,
    draws: Draws,
    progress: Progress,
) -> None:
    for step in optimise(detector.vae, 2e-3, 0.0, recipe.vae_steps, progress):
        rows = draws.rows(fused.shape[0], recipe.batch)
        step(detector.vae.loss(fused[rows], draws))


def fit_classifier(
    detector: HierarchicalDetector,
    inliers: Tensor,
    outliers: Tensor,
    recipe: Recipe,
    draws: Draws,
    progress: Progress,
) -> None:
    for step in optimise(detector.classifier, 3e-3, 1e-4, recipe.classifier_steps, progress):
        some = inliers[draws.rows(inliers.shape[0], recipe.batch)]
        others = outliers[draws.rows(outliers.shape[0], recipe.batch)]
        step(detector.classifier.loss(some, others))


def optimise(
    module: nn.Module, learning_rate: float, weight_decay: float, steps: int, progress: Progress
) -> Iterator[Callable[[Tensor], None]]:
    """Adam with a one-cycle learning rate (a tenth warm-up, then cosine); yields what to do with each loss."""
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)

    def step(loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimiser.step()
        schedule.step()

    for i in range(steps):
        yield step
        if i % 50 == 0:
            progress(i / steps)


def flush_denormals(module: nn.Module) -> None:
    """Set weights too small to matter to zero: some processors compute them forty times slower."""
    for parameter in module.parameters():
        parameter.masked_fill_(parameter.abs() < 1e-30, 0.0)
