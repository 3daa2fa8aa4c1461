"""The hierarchical detector: all stages tied into one module, from raw feature row to score."""

import torch
from torch import Tensor, nn

from stream_ad.detector.autoencoder import Autoencoder
from stream_ad.detector.calibration import Calibration
from stream_ad.detector.classifier import Classifier
from stream_ad.detector.codebook import GROUPS, CodeBook
from stream_ad.detector.descriptors import FLOAT32_MAX, Standardise, Whiten
from stream_ad.detector.fusion import Fusion
from stream_ad.detector.imputation import ConditionalMean
from stream_ad.detector.outskirts import LatentSpread
from stream_ad.detector.recipe import Recipe
from stream_ad.detector.statistics import NAMES, NormaliseStatistics, compress
from stream_ad.detector.vae import VariationalAutoencoder, divergence

WEIGHTS = (
    ("logit", 1.0),
    ("nearest_prototype", 0.5),
    ("nearest_by_group", 1.0),
    ("residual_a_absolute", 0.25),
    ("residual_w_absolute", 0.25),
    ("vae_error", 0.25),
    ("latent_distance", 0.5),
)
"""Parts of the raw score: the classifier's logit and six of the statistics."""

MOST_CANDIDATES = 16
"""Features of a flagged row that are tried out one by one when it is explained."""


class HierarchicalDetector(nn.Module):
    """Raw feature rows (NaN allowed) to score, p-value and reconstruction, with all constants inside.

    After arXiv 2010.05119: two autoencoders distil descriptors of inliers, their codes are fused, a VAE
    learns latent distributions over them, and a classifier that has seen inliers and synthetic outliers judges
    what all of them found strange.
    """

    part_weight: Tensor
    part_low: Tensor
    part_range: Tensor

    def __init__(self, n_features: int, prototypes: int, recipe: Recipe) -> None:
        super().__init__()
        self.standardise = Standardise(n_features)
        self.impute = ConditionalMean(n_features)
        self.whiten = Whiten(n_features)
        self.autoencoder_a = Autoencoder(n_features, recipe.autoencoder_width, recipe.code_size)
        self.autoencoder_w = Autoencoder(n_features, recipe.autoencoder_width, recipe.code_size)
        self.fusion = Fusion(2 * recipe.code_size)
        self.vae = VariationalAutoencoder(2 * recipe.code_size, recipe.vae_width, recipe.latent_size)
        self.latent_spread = LatentSpread(recipe.latent_size)
        self.codebook = CodeBook(prototypes, 2 * n_features)
        self.normalise = NormaliseStatistics()
        self.classifier = Classifier(len(NAMES), recipe.classifier_width, recipe.classifier_networks)
        self.calibration = Calibration()
        self.largest = FLOAT32_MAX
        self.candidates = min(n_features, MOST_CANDIDATES)
        self.part_columns: list[int] = [NAMES.index(name) for name, _ in WEIGHTS[1:]]
        self.register_buffer("part_weight", torch.tensor([weight for _, weight in WEIGHTS]))
        self.register_buffer("part_low", torch.zeros(len(WEIGHTS)))
        self.register_buffer("part_range", torch.ones(len(WEIGHTS)))

    def hierarchy(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A [n, d] without NaN -> eleven statistics [n, 11], code-book points [n, 2d], reconstruction of A."""
        w = self.whiten(a)
        code_a = self.autoencoder_a.encode(a)
        code_w = self.autoencoder_w.encode(w)
        reconstruction = self.autoencoder_a.decode(code_a)
        residual_a = (a - reconstruction).abs()
        residual_w = (w - self.autoencoder_w.decode(code_w)).abs()
        fused = self.fusion(code_a, code_w)
        mu, log_variance = self.vae.encode(fused)
        vae_error = (fused - self.vae.decode(mu)).pow(2).mean(dim=1)
        statistics = torch.stack(
            [
                residual_a.pow(2).mean(dim=1),
                residual_a.mean(dim=1),
                residual_a.amax(dim=1),
                residual_w.pow(2).mean(dim=1),
                residual_w.mean(dim=1),
                residual_w.amax(dim=1),
                vae_error,
                self.latent_spread(mu),
                divergence(mu, log_variance),
                a.pow(2).mean(dim=1),
                w.pow(2).mean(dim=1),
            ],
            dim=1,
        )
        return statistics, torch.cat([a, w], dim=1), reconstruction

    def parts(self, normalised: Tensor) -> Tensor:
        """Normalised statistics [n, 13] -> the parts of the raw score [n, 7]."""
        logit = self.classifier(normalised)[:, None]
        return torch.cat([logit, normalised[:, self.part_columns]], dim=1)

    def combine(self, normalised: Tensor) -> Tensor:
        """Normalised statistics [n, 13] -> raw score [n]."""
        scaled = (self.parts(normalised) - self.part_low) / self.part_range
        return compress(scaled.clamp(min=-5.0), 25.0) @ self.part_weight

    def statistics(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """A [n, d] without NaN -> normalised statistics [n, 13], reconstruction of A [n, d]."""
        statistics, points, reconstruction = self.hierarchy(a)
        nearest, by_group = self.codebook(points)
        statistics = torch.cat([statistics, nearest[:, None], by_group[:, None]], dim=1)
        return self.normalise(statistics), reconstruction

    def raw_score(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """A [n, d] without NaN -> raw score [n], reconstruction of A [n, d]."""
        normalised, reconstruction = self.statistics(a)
        return self.combine(normalised), reconstruction

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> score [n], p-value [n], reconstruction [n, d], all float64.

        Score 1.0 is the alert threshold. A row with a value at the edge of float32 (what infinities are
        clipped to) is always above it.
        """
        raw, reconstruction = self.raw_score(self.impute(self.standardise(x)))
        score, p = self.calibration(raw)
        extreme = (x.abs() >= self.largest).any(dim=1)
        alpha = self.calibration.alpha
        p = torch.where(extreme, torch.minimum(p, alpha), p)
        score = torch.where(extreme, score.clamp(min=1.0), score)
        return score, p, self.standardise.inverse(reconstruction)

    @torch.jit.export
    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What was expected of rows x [n, d] and which features are to blame: two [n, d], float64.

        Each of the most surprising features in turn is taken for missing and filled in from the others; its
        share is what the raw score loses by it, its expected value what was filled in. Shares sum to 1.
        """
        a = self.standardise(x)
        filled = self.impute(a)
        raw, expected = self.raw_score(filled)
        surprise = self.impute.surprise(filled)
        order = torch.topk(surprise, self.candidates, dim=1).indices
        # Every row once for each candidate, with that feature missing.
        trials = filled.repeat_interleave(self.candidates, dim=0)
        feature = order.reshape(-1, 1)
        without = self.impute(trials.scatter(1, feature, torch.full_like(trials[:, :1], torch.nan)))
        less = self.raw_score(without)[0].reshape(-1, self.candidates)
        relief = torch.zeros_like(filled).scatter(1, order, (raw[:, None] - less).clamp(min=0.0))
        expected = expected.scatter(1, order, without.gather(1, feature).reshape(-1, self.candidates))
        # Where no single feature brings relief, surprise alone tells.
        relief = torch.where(relief.sum(dim=1, keepdim=True) > 0.0, relief * relief, surprise + 1e-9)
        share = relief.to(torch.float64)
        return self.standardise.inverse(expected), share / share.sum(dim=1, keepdim=True)


def prototypes_for(n_rows: int, recipe: Recipe) -> int:
    """How many prototypes a window of n_rows can carry: a multiple of the code-book's groups."""
    return max(GROUPS, min(recipe.prototypes, n_rows // 2) // GROUPS * GROUPS)
