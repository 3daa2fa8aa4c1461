"""The hierarchical detector: all stages tied into one module, from raw feature row to score."""

import torch
from torch import Tensor, nn

from stream_ad.detector.autoencoder import Autoencoder
from stream_ad.detector.calibration import Calibration
from stream_ad.detector.classifier import Classifier
from stream_ad.detector.codebook import GROUPS, CodeBook
from stream_ad.detector.descriptors import FLOAT32_MAX, Ranks, Standardise, Whiten
from stream_ad.detector.examples import Examples
from stream_ad.detector.fusion import Fusion
from stream_ad.detector.imputation import ConditionalMean
from stream_ad.detector.novelty import Novelty
from stream_ad.detector.outskirts import LatentSpread
from stream_ad.detector.pointwise import celu, compress
from stream_ad.detector.products import linear
from stream_ad.detector.rarity import ConditionalRarity
from stream_ad.detector.recipe import Recipe
from stream_ad.detector.relations import Relations
from stream_ad.detector.statistics import NAMES, NormaliseStatistics
from stream_ad.detector.vae import VariationalAutoencoder, divergence

WEIGHTS = (
    ("logit", 0.5),
    ("unseen_value", 0.75),
    ("unseen_pairs", 0.5),
    ("likeness", 0.0),
    ("relations", 2.0),
    ("nearest_prototype", 1.0),
    ("nearest_by_group", 0.5),
    ("relative_distance", 0.75),
    ("size_w", 0.25),
    ("residual_v_absolute", 0.25),
    ("residual_w_absolute", 0.5),
    ("vae_error", 0.25),
    ("rarity_sum", 0.5),
    ("residual_v_largest", 2.0),
)
"""Parts of the raw score: the classifier's logit, what was never seen before, likeness to labelled anomalies (which
gets its weight with the first of them), broken relations, and some of the statistics."""
PARTS = [name for name, _ in WEIGHTS]
NOVELTY = slice(1, 3)
LIKENESS = PARTS.index("likeness")
EXTREMES = {"relations": 0.999, "residual_v_largest": 0.99}
"""Parts that count from this quantile of the inliers on: one feature that is far out hardly moves a mean over hundreds,
while of any other row the largest of many numbers says little."""
ORDINARY = 0.5
"""How far below the median the other parts can get, in units of the distance from the median to the 95 % quantile."""

CLEARLY_NEARER = 0.8
"""Share of the distance from a row to its nearest prototype."""
MOST_CANDIDATES = 16
"""Features of a flagged row that are tried out one by one when it is explained."""


class HierarchicalDetector(nn.Module):
    """Raw feature rows (NaN allowed) to score, p-value and reconstruction, with all constants inside.

    After arXiv 2010.05119: autoencoders distil descriptors of inliers, a VAE learns latent distributions over the code
    of V, or over both codes fused, and a classifier that has seen inliers and synthetic outliers judges what all of
    them found strange.
    """

    part_weight: Tensor
    part_low: Tensor
    part_range: Tensor
    part_least: Tensor

    def __init__(self, n_features: int, prototypes: int, recipe: Recipe, pairs: int = 0, examples: int = 0) -> None:
        super().__init__()
        self.standardise = Standardise(n_features)
        self.impute = ConditionalMean(n_features)
        self.ranks = Ranks(n_features, recipe.rank_table)
        self.novelty = Novelty(n_features, pairs)
        self.whiten = Whiten(n_features)
        self.relations = Relations(n_features)
        self.autoencoder_v = Autoencoder(2 * n_features, recipe.autoencoder_width, recipe.code_size)
        self.autoencoder_w = Autoencoder(n_features, recipe.autoencoder_width, recipe.code_size)
        self.rarity = ConditionalRarity(n_features, recipe.rarity_width)
        self.fuse_codes = recipe.fuse_codes
        codes = 2 if recipe.fuse_codes else 1
        self.fusion = Fusion(codes, recipe.code_size)
        self.vae = VariationalAutoencoder(codes * recipe.code_size, recipe.vae_width, recipe.latent_size)
        self.latent_spread = LatentSpread(recipe.latent_size)
        self.codebook = CodeBook(prototypes, 2 * n_features)
        self.examples = Examples(2 * n_features, examples)
        self.normalise = NormaliseStatistics()
        self.classifier = Classifier(len(NAMES), recipe.classifier_width, recipe.classifier_networks)
        self.calibration = Calibration()
        self.n_features = n_features
        self.largest = FLOAT32_MAX
        self.ordinary = ORDINARY
        self.clearly_nearer = CLEARLY_NEARER
        self.candidates = min(n_features, MOST_CANDIDATES)
        self.part_columns: list[int] = [NAMES.index(name) for name, _ in WEIGHTS if name in NAMES]
        self.nearest_column = NAMES.index("nearest_prototype")
        self.register_buffer("part_weight", torch.tensor([weight for _, weight in WEIGHTS]))
        self.register_buffer("part_low", torch.zeros(len(WEIGHTS)))
        self.register_buffer("part_range", torch.ones(len(WEIGHTS)))
        self.register_buffer("part_least", torch.full((len(WEIGHTS),), -ORDINARY), persistent=False)
        self.part_least[[PARTS.index(name) for name in EXTREMES]] = 0.0

    def later_state(self) -> dict[str, Tensor]:
        """What models of earlier versions lack, as it is before anything is learned: it changes nothing."""
        later = ("codebook.usual", "relations.close", "relations.varies")
        return {name: value for name, value in self.state_dict().items() if name.startswith(later)}

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> V = [A, R] [n, 2d] without gaps, what is missing [n, d] but for states,
        which are known well enough, and what is novel in it [n, 2]."""
        known = self.with_states(x)
        v, place, in_table = self.with_likely(known, self.fill(known))
        return v, self.standardise.missing(known), self.novelty(place, in_table, torch.isnan(x))

    def fill(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> V [n, 2d] without gaps, and as `Ranks` tells them the place of each
        value in its table and whether it is the value there, both [d, n]."""
        a = self.standardise(x)
        filled = self.impute(a)
        rank, place, in_table = self.ranks(self.settle(x, a, filled))
        return torch.cat([filled, rank], dim=1), place, in_table

    def with_states(self, x: Tensor) -> Tensor:
        """x [n, d] float64, NaN for missing -> the same with the missing ones among states, codes and switches.

        What lies between two states is none, however likely both are, so these are those of the prototype that is
        nearest to the row with its gaps filled linearly: they have been seen together.
        """
        gap = torch.isnan(x) & self.novelty.states()
        rows = torch.nonzero(gap.any(dim=1)).flatten()
        if not torch.compiler.is_compiling() and rows.shape[0] == 0:
            return x
        nearest = self.codebook.nearest(self.position_of(self.fill(x[rows])[0]))
        likely = self.standardise.inverse(self.at_position(nearest))
        x = x.clone()
        x[rows] = torch.where(gap[rows], self.ranks.nearest_value(likely), x[rows])
        return x

    def with_likely(self, x: Tensor, filled: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing, and what `fill` makes of it -> the same, but with the gaps of those rows
        filled in as in a prototype that are clearly nearer to one then.

        The mean given the others lies off a curve on which they hang together: of a direction in sines and cosines
        half would be missing, and the other half tell of a point inside the circle.
        """
        gap = torch.isnan(x) & ~self.standardise.unknown
        rows = torch.nonzero(gap.any(dim=1)).flatten()
        if not torch.compiler.is_compiling() and rows.shape[0] == 0:
            return filled
        v, place, in_table = filled
        likely_v, likely_place, likely_in_table = self.fill(self.like_a_prototype(x[rows], gap[rows]))
        nearer = self.to_prototype(likely_v) < self.clearly_nearer * self.to_prototype(v[rows])
        chosen = torch.nonzero(nearer).flatten()
        rows = rows[chosen]
        v[rows] = likely_v[chosen]
        place[:, rows] = likely_place[:, chosen]
        in_table[:, rows] = likely_in_table[:, chosen]
        return v, place, in_table

    def like_a_prototype(self, x: Tensor, gap: Tensor) -> Tensor:
        """Rows x [n, d] float64 and where they have gaps -> the same, filled in as the prototype that is nearest to the
        rest of the row, moved by what the rest is away from it."""
        a = self.standardise(x)
        prototypes = self.at_position(self.codebook.prototypes())
        known, measured = a.masked_fill(gap, 0.0), 1.0 - gap.to(a.dtype)
        table = torch.cat([prototypes, -0.5 * prototypes * prototypes], dim=1)
        nearest = prototypes[linear(torch.cat([known, measured], dim=1), table).argmax(dim=1)]
        centre = self.impute.centre
        filled = nearest + self.impute(torch.where(gap, torch.nan, a - nearest + centre)) - centre
        return torch.where(gap, self.standardise.inverse(filled), x)

    def to_prototype(self, v: Tensor) -> Tensor:
        """V [n, 2d] -> distance to the nearest prototype [n]."""
        return self.codebook.to_nearest(self.position_of(v))

    def settle(self, x: Tensor, a: Tensor, filled: Tensor) -> Tensor:
        """x [n, d] float64, A and A without gaps [n, d] -> x as ranks are taken of it, gaps filled in."""
        settled = self.standardise.without_rounding(x, a)
        # Only rows with a gap pay for the way back.
        missing = torch.isnan(a)
        rows = torch.nonzero(missing.any(dim=1)).flatten()
        settled[rows] = torch.where(missing[rows], self.standardise.inverse(filled[rows]), settled[rows])
        return settled

    def statistics(self, v: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """V [n, 2d] and what is missing [n, d] -> statistics [n, 16], reconstruction of A [n, d], the conditional
        rarity of each feature [n, d], and what is usual among rows like it [n]: see `usual_by_kind`."""
        a = v[:, : self.n_features]
        w = self.whiten(a)
        code_v = self.autoencoder_v.encode(v)
        code_w = self.autoencoder_w.encode(w)
        reconstruction = self.autoencoder_v.decode(code_v)
        residual_v = (v - reconstruction).abs()
        residual_w = (w - self.autoencoder_w.decode(code_w)).abs()
        fused = self.fusion(self.codes(code_v, code_w))
        mu, log_variance = self.vae.encode(fused)
        vae_error = (fused - self.vae.decode(mu)).pow(2).mean(dim=1)
        rarity = self.rarity(a, missing)
        nearest, by_group, relative, usual = self.codebook(self.position(v, w))
        statistics = [
            residual_v.pow(2).mean(dim=1),
            residual_v.mean(dim=1),
            residual_v.masked_fill(missing.repeat(1, 2), 0.0).amax(dim=1),
            residual_w.pow(2).mean(dim=1),
            residual_w.mean(dim=1),
            residual_w.amax(dim=1),
            vae_error,
            self.latent_spread(mu),
            divergence(mu, log_variance),
            v.pow(2).mean(dim=1),
            w.pow(2).mean(dim=1),
            rarity.sum(dim=1),
            rarity.amax(dim=1),
            nearest,
            by_group,
            relative,
        ]
        return torch.stack(statistics, dim=1), reconstruction[:, : self.n_features], rarity, usual

    def codes(self, code_v: Tensor, code_w: Tensor) -> list[Tensor]:
        """Those of the two codes [n, c] that the second level learns over."""
        return [code_v, code_w] if self.fuse_codes else [code_v]

    def position(self, v: Tensor, w: Tensor) -> Tensor:
        """V [n, 2d] and W [n, d] -> [n, 2d] in which two rows are as far apart as in [V, W]."""
        return torch.cat([v[:, self.n_features :], self.whiten.both(w)], dim=1)

    def position_of(self, v: Tensor) -> Tensor:
        """V [n, 2d] -> its position [n, 2d]."""
        return self.position(v, self.whiten(v[:, : self.n_features]))

    def at_position(self, position: Tensor) -> Tensor:
        """Positions [n, 2d] -> A of what is there [n, d]."""
        return self.whiten.inverse(self.whiten.apart(position[:, self.n_features :]))

    def compare(self, v: Tensor, missing: Tensor, novel: Tensor, statistics: Tensor) -> Tensor:
        """V [n, 2d], what is missing [n, d], what is novel [n, 2], and statistics [n, 16] -> the parts that are no
        statistics: novelty, likeness to labelled anomalies, and broken relations [n, 4]."""
        a = v[:, : self.n_features]
        if self.examples.count == 0:
            likeness = torch.zeros_like(v[:, 0])
        else:
            likeness = self.examples(self.position_of(v), statistics[:, self.nearest_column])
        return torch.cat([novel, likeness[:, None], self.relations(a, missing)[:, None]], dim=1)

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> statistics [n, 16], and what `compare` says [n, 4]."""
        v, missing, novel = self.describe(x)
        statistics = self.statistics(v, missing)[0]
        return statistics, self.compare(v, missing, novel, statistics)

    def parts(self, statistics: Tensor, compared: Tensor) -> Tensor:
        """Statistics [n, 16], and what `compare` says [n, 4] -> the parts of the raw score [n, p]."""
        normalised = self.normalise(statistics)
        logit = self.classifier(normalised)
        return torch.cat([logit[:, None], compared, normalised[:, self.part_columns]], dim=1)

    def combine(self, parts: Tensor) -> Tensor:
        """Parts [n, p] -> raw score [n].

        A part that finds a row more ordinary than others do says little: it must not make up for one that finds it
        strange, so below the median parts soon count the same.
        """
        scaled = (parts - self.part_low) / self.part_range
        strange = torch.maximum(celu(compress(scaled, 25.0), self.ordinary), self.part_least)
        return strange @ self.part_weight

    def raw_score(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> raw score [n], V [n, 2d] without gaps, the reconstruction of A and the
        conditional rarity of each feature, both [n, d]."""
        v, missing, novel = self.describe(x)
        statistics, reconstruction, rarity, usual = self.statistics(v, missing)
        raw = self.combine(self.parts(statistics, self.compare(v, missing, novel, statistics))) - usual
        return raw, v, reconstruction, rarity

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, d] float64, NaN for missing -> score [n], p-value [n], reconstruction [n, d], all float64.

        Score 1.0 is the alert threshold. A row with a value at the edge of float32 (what infinities are
        clipped to) is always above it.
        """
        raw, _, reconstruction, _ = self.raw_score(x)
        score, p = self.calibration(raw)
        extreme = (x.abs() >= self.largest).any(dim=1)
        alpha = self.calibration.alpha
        p = torch.where(extreme, torch.minimum(p, alpha), p)
        score = torch.where(extreme, score.clamp(min=1.0), score)
        return score, p, self.standardise.inverse(reconstruction)

    @torch.jit.export
    def explain(self, x: Tensor, describes: Tensor) -> tuple[Tensor, Tensor]:
        """What was expected of rows x [n, w] and which features are to blame: two [n, d], float64.

        `describes` [w] says which of the d features each column tells of, -1 for none; the first d columns are the
        features themselves. Each of the most surprising features in turn is taken for missing, with all that
        tells of it, and filled in from the others: that is its expected value. What the raw score loses by it is
        its relief. If one feature is off, its relief is nearly all of the score, and shares go by the squares of
        the reliefs; if many are, none alone brings much, and shares go by how many spreads each is from its
        centre. In between they are mixed. Shares sum to 1.
        """
        raw, v, reconstruction, rarity = self.raw_score(x)
        a = v[:, : self.n_features]
        d = int(describes.max()) + 1
        tells_of = torch.arange(d, device=x.device)[:, None] == describes
        by_feature = tells_of.to(a.dtype).T
        surprise = (self.impute.surprise(a) + rarity) @ by_feature
        k = min(d, self.candidates)
        order = torch.topk(surprise, k, dim=1).indices
        # Every row once for each candidate, without it.
        trials = torch.where(tells_of[order], torch.nan, x[:, None]).flatten(0, 1)
        less, filled, _, _ = self.raw_score(trials)
        relief = (raw[:, None] - less.reshape(-1, k)).clamp(min=0.0)
        explained = (relief.amax(dim=1) / raw.clamp(min=1e-6)).clamp(max=1.0)[:, None]
        relief = torch.zeros_like(surprise).scatter(1, order, relief * relief)
        strange = (a.abs() * ~torch.isnan(x)) @ by_feature + 1e-9
        share = explained**2 * proportion(relief) + (1.0 - explained) ** 2 * proportion(strange)
        filled = filled[:, :d].gather(1, order.reshape(-1, 1)).reshape(-1, k)
        expected = reconstruction.scatter(1, order, filled)
        return self.standardise.inverse(expected)[:, :d], proportion(share)


def proportion(parts: Tensor) -> Tensor:
    """Parts [n, d], none negative -> float64 that sum to 1 in each row, or 0 where all parts are."""
    wide = parts.to(torch.float64)
    return wide / wide.sum(dim=1, keepdim=True).clamp(min=1e-300)


def prototypes_for(n_rows: int, recipe: Recipe) -> int:
    """How many prototypes a window of n_rows can carry: a multiple of the code-book's groups."""
    return max(GROUPS, min(recipe.prototypes, n_rows) // GROUPS * GROUPS)
