"""Each stage of the detector by itself: shapes, invariances, and toys where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stream_ad.detector.autoencoder import Autoencoder, corrupt
from stream_ad.detector.classifier import Classifier
from stream_ad.detector.codebook import CodeBook
from stream_ad.detector.descriptors import Ranks, Standardise, Whiten, soft_clip, soft_clip_inverse
from stream_ad.detector.draws import Draws
from stream_ad.detector.fitting import Progress, optimise
from stream_ad.detector.fusion import Fusion
from stream_ad.detector.imputation import ConditionalMean
from stream_ad.detector.novelty import LEAST_SURPRISE, Novelty, good_turing
from stream_ad.detector.outskirts import LatentSpread, select_outskirts
from stream_ad.detector.pointwise import celu, compress, exp
from stream_ad.detector.products import FEWEST, Linear, batched, linear, worthwhile
from stream_ad.detector.rarity import GROUPS, ConditionalRarity
from stream_ad.detector.relations import Relations
from stream_ad.detector.statistics import NAMES, NormaliseStatistics
from stream_ad.detector.synthesis import Synthesiser
from stream_ad.detector.vae import VariationalAutoencoder, divergence


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def draws() -> Draws:
    return Draws(0, torch.device("cpu"))


def quiet(share: float) -> None:
    """Progress that nobody watches."""


QUIET: Progress = quiet


def related(n: int) -> Tensor:
    """Four features: the second follows the first, the fourth the third, apart from a little noise."""
    hidden = torch.randn(n, 2)
    both = torch.stack([hidden[:, 0], hidden[:, 0], hidden[:, 1], -hidden[:, 1]], dim=1)
    return both + 0.1 * torch.randn(n, 4)


class TestDescriptors:
    def test_the_soft_clip_keeps_the_order_and_can_be_undone(self) -> None:
        v = torch.tensor([-1e6, -50.0, -4.0, 0.0, 3.9, 4.1, 1e5])
        assert bool((soft_clip(v).diff() > 0).all())
        torch.testing.assert_close(soft_clip_inverse(soft_clip(v[1:6])), v[1:6], rtol=1e-4, atol=1e-4)

    def test_standardised_values_do_not_depend_on_units(self) -> None:
        x = torch.randn(500, 3, dtype=torch.float64)
        units = torch.tensor([1e-9, 1.0, 1e12], dtype=torch.float64)
        plain, scaled = Standardise(3), Standardise(3)
        plain.fit(x)
        scaled.fit(x * units + 7.0 * units)
        torch.testing.assert_close(scaled(x * units + 7.0 * units), plain(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plain.inverse(plain(x)), x, rtol=1e-4, atol=1e-4)

    def test_whitened_inliers_have_no_correlation_left(self) -> None:
        a = related(5000)
        whiten = Whiten(4)
        whiten.fit(a)
        covariance = torch.cov(whiten(a).T)
        torch.testing.assert_close(
            covariance - torch.diag(torch.diagonal(covariance)), torch.zeros(4, 4), atol=1e-3, rtol=0
        )
        # Two directions carry nearly all, the ridge keeps the other two from being blown up to noise.
        assert float(torch.diagonal(covariance).max()) < 1.1

    def test_ranks_are_normal_scores_whatever_the_distribution(self) -> None:
        x = torch.exp(3.0 * torch.randn(4000, 1, dtype=torch.float64))
        ranks = Ranks(1, 256)
        assert int(ranks.fit(x)[0]) == 0, "4,000 distinct values do not fit into a table of 256"
        score = ranks(x)[0][:, 0]
        torch.testing.assert_close(score, torch.log(x[:, 0]).to(torch.float32) / 3.0, atol=0.25, rtol=0.1)
        assert bool((ranks(x.sort(dim=0).values)[0].diff(dim=0) >= 0).all())

    def test_equal_values_share_the_rank_of_their_middle(self) -> None:
        x = torch.tensor([0.0] * 50 + [5.0] * 30 + [9.0] * 20, dtype=torch.float64)[:, None]
        ranks = Ranks(1, 16)
        assert int(ranks.fit(x)[0]) == 3
        score, place, known = ranks(torch.tensor([[0.0], [5.0], [7.0], [9.0], [99.0]], dtype=torch.float64))
        share = 0.5 * (1.0 + torch.erf(score[:, 0] / math.sqrt(2.0)))
        torch.testing.assert_close(share, torch.tensor([0.25, 0.65, 0.80, 0.90, 1.0]), atol=0.01, rtol=0)
        assert known[0].tolist() == [True, True, False, True, False]
        assert place[0, :2].tolist() == [0, 1]

    def test_ranks_are_of_what_is_there(self) -> None:
        ranks = Ranks(3, 16)
        nan = math.nan
        distinct = ranks.fit(torch.tensor([[1.0, nan, 5.0], [nan, nan, 5.0], [3.0, nan, 5.0]], dtype=torch.float64))
        assert distinct.tolist() == [2, 0, 1]
        assert bool(torch.isfinite(ranks(torch.tensor([[2.0, 2.0, 2.0]], dtype=torch.float64))[0]).all())

    def test_the_nearest_value_is_one_that_was_there(self) -> None:
        ranks = Ranks(1, 16)
        ranks.fit(torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64))
        asked = torch.tensor([[-9.0], [0.4], [0.6], [2.4], [2.6], [99.0]], dtype=torch.float64)
        assert ranks.nearest_value(asked).flatten().tolist() == [0.0, 0.0, 1.0, 1.0, 4.0, 4.0]

    def test_a_value_sent_as_text_and_as_float32_is_one(self) -> None:
        ranks = Ranks(3, 16)
        # Of the second, the values are nearer to each other than float32 can tell; the third are whole.
        x = torch.tensor([[0.1, 2.0 - 1e-8, 3e8], [23.1, 2.0, 3e8 + 4.0], [0.7, 2.5, 9.0]], dtype=torch.float64)
        ranks.fit(x)
        assert ranks(x)[2].all()
        as_float32 = x[:, 0].to(torch.float32).to(torch.float64)
        for column in (as_float32, as_float32 * (1.0 + 1e-7)):
            asked = torch.stack([column, x[:, 1], x[:, 2]], dim=1)
            assert torch.equal(ranks(asked)[1], ranks(x)[1])
            assert ranks(asked)[2].all()
        others = torch.tensor([[0.10001, 2.0 - 5e-9, 3e8 + 1.0]], dtype=torch.float64)
        assert not ranks(others)[2].any()

    @pytest.mark.parametrize("size", [2, 3, 1000, 1024])
    def test_the_search_by_halves_finds_what_a_search_one_by_one_finds(self, size: int) -> None:
        ranks = Ranks(2, size)
        x = torch.randint(0, 2000, (3000, 2), dtype=torch.float64)
        ranks.fit(x)
        beyond = torch.tensor([[-1.0, 1e300], [torch.inf, -torch.inf]], dtype=torch.float64)
        asked = torch.cat([x, beyond]).T.contiguous()
        expected = torch.searchsorted(ranks.upper, asked).clamp(max=ranks.upper.shape[1] - 1)
        assert torch.equal(ranks.search(asked), expected)


class TestProducts:
    @pytest.mark.parametrize("rows", [0, 1, 7, 1000])
    def test_they_are_those_of_pytorch(self, rows: int) -> None:
        layer, x = Linear(60, 128), torch.randn(rows, 60)
        stack, weight = torch.randn(4, rows, 60), torch.randn(4, 60, 128)
        with torch.no_grad():
            for some in (x, stack):
                expected = torch.nn.functional.linear(some, layer.weight, layer.bias)
                assert torch.allclose(layer(some), expected, atol=1e-5)
            assert torch.allclose(linear(x, weight[0].t()), x @ weight[0], atol=1e-4)
            assert torch.allclose(batched(stack, weight), torch.bmm(stack, weight), atol=1e-4)

    def test_what_trains_can_be_differentiated(self) -> None:
        layer, x = Linear(60, 128), torch.randn(1000, 60)
        assert not worthwhile(x, FEWEST)
        layer(x).sum().backward()
        assert layer.weight.grad is not None
        assert torch.allclose(layer.weight.grad, x.sum(dim=0).expand(128, 60), atol=1e-3)
        with torch.no_grad():
            assert worthwhile(x, FEWEST)
            assert not worthwhile(x, FEWEST - 1)


class TestImputation:
    def test_a_gap_is_filled_from_the_feature_that_it_follows(self) -> None:
        a = related(2000)
        impute = ConditionalMean(4)
        impute.fit(a)
        rows = related(200)
        gaps = rows.clone()
        gaps[:, 1] = torch.nan
        filled = impute(gaps)
        assert float((filled[:, 1] - rows[:, 1]).abs().mean()) < 0.2
        torch.testing.assert_close(filled[:, [0, 2, 3]], rows[:, [0, 2, 3]])

    @pytest.mark.parametrize("gaps", [[1], [0, 2], [0, 1, 3]])
    def test_whatever_is_missing_is_the_mean_given_the_rest(self, gaps: list[int]) -> None:
        impute = ConditionalMean(4)
        impute.fit(related(2000))
        rows = related(50)
        rows[:, gaps] = torch.nan
        rest = [j for j in range(4) if j not in gaps]
        pull = impute.precision[gaps][:, rest] @ (rows[:, rest] - impute.centre[rest]).T
        expected = impute.centre[gaps] - torch.linalg.solve(impute.precision[gaps][:, gaps], pull).T
        torch.testing.assert_close(impute(rows)[:, gaps], expected, atol=1e-3, rtol=1e-3)


class TestRelations:
    @staticmethod
    def twins(n: int, seed: int) -> Tensor:
        """Two thermometers that agree to a thousandth, and a sensor that has nothing to do with them."""
        generator = torch.Generator().manual_seed(seed)
        first, other, noise = torch.randn(3, n, generator=generator)
        return torch.stack([first, first + 0.001 * noise, other], dim=1)

    def test_a_small_difference_between_twins_is_large_and_alike_for_all_other_rows(self) -> None:
        relations = Relations(3)
        relations.fit(self.twins(2000, 0))
        nothing = torch.zeros(500, 3, dtype=torch.bool)
        usual = relations(self.twins(500, 1), nothing)
        apart = self.twins(500, 1)
        apart[:, 1] += 0.3
        assert usual.shape == (500,)
        assert float(relations(apart, nothing).min()) > float(usual.max())
        moved = self.twins(500, 1) + torch.tensor([2.0, 2.0, 0.0])
        assert float(relations(moved, nothing).mean()) < float(usual.max())

    def test_what_is_missing_breaks_no_relation(self) -> None:
        relations = Relations(3)
        relations.fit(self.twins(2000, 0))
        apart = torch.tensor([[0.0, 3.0, 0.0]])
        both = torch.tensor([[True, True, False]])
        assert float(relations(apart, both)) < 1.0 < float(relations(apart, ~both))

    def test_a_total_that_is_off_by_little_is_seen_also_where_its_parts_are_far_out(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def rows(n: int, off: float = 0.0) -> Tensor:
            one, other = torch.exp(torch.randn(2, n, generator=generator, dtype=torch.float64))
            x = torch.stack([one, other, one + other + off], dim=1) / torch.tensor([2.0, 2.0, 3.0])
            return soft_clip((x - x.new_tensor([0.8, 0.8, 1.1])).to(torch.float32))

        relations = Relations(3)
        relations.fit(rows(4000))
        nothing = torch.zeros(500, 3, dtype=torch.bool)
        close = Relations(3)
        close.load_state_dict(relations.state_dict() | {"pull": torch.zeros(3, 3)})
        usual, apart = close(rows(500), nothing), close(rows(500, 0.05), nothing)
        assert float(apart.quantile(0.01)) > float(usual.quantile(0.99))

    def test_what_was_filled_in_has_not_to_be_as_near_as_what_was_measured(self) -> None:
        relations = Relations(3)
        relations.fit(self.twins(2000, 0))
        apart = torch.tensor([[1.0, 1.02, 0.0]])
        gap = torch.tensor([[False, True, False]])
        assert float(relations(apart, gap)) < 1.0 < float(relations(apart, torch.zeros_like(gap)))
        other = torch.tensor([[False, False, True]])
        assert float(relations(apart, other)) > 1.0, "the twins are there both"

    def test_a_feature_of_which_nothing_is_known_is_no_gap(self) -> None:
        relations = Relations(4)
        relations.fit(torch.cat([self.twins(2000, 0), torch.zeros(2000, 1)], dim=1))
        unknown = torch.tensor([[False, False, False, True]])
        assert float(relations(torch.tensor([[1.0, 1.02, 0.0, 0.0]]), unknown)) > 1.0

    @pytest.mark.parametrize("n", [1, 3, 20])
    def test_fewer_rows_than_features_are_enough(self, n: int) -> None:
        relations = Relations(20)
        relations.fit(torch.randn(n, 20))
        found = relations(torch.randn(50, 20), torch.zeros(50, 20, dtype=torch.bool))
        assert bool(torch.isfinite(found).all())
        assert float(found.min()) >= 0.0


class TestRarity:
    @pytest.fixture
    def rarity(self, draws: Draws) -> ConditionalRarity:
        a = related(3000)
        rarity = ConditionalRarity(4, 32)
        rarity.fit_bins(a)
        for step in optimise(rarity, 5e-3, 0.0, 150, QUIET):
            step(rarity.loss(a[draws.rows(3000, 256)], draws))
        return rarity.eval()

    def test_it_names_the_features_that_contradict_each_other(self, rarity: ConditionalRarity) -> None:
        rows = related(300)
        rows[:, 0], rows[:, 1] = 1.5, -1.5
        nothing = torch.zeros(300, 4, dtype=torch.bool)
        with torch.no_grad():
            found = rarity(rows, nothing).mean(dim=0)
            usual = rarity(related(300), nothing).mean(dim=0)
        assert found.shape == (4,)
        assert float((found - usual)[:2].min()) > 1.5
        assert float((found - usual)[2:].abs().max()) < 0.5

    def test_rounding_moves_no_value_to_another_bin(self) -> None:
        figures = torch.randn(3000, 4).round(decimals=1)
        rarity = ConditionalRarity(4, 8)
        rarity.fit_bins(figures)
        for moved in (figures + 1e-6, figures - 1e-6):
            bins = [rarity.bin_of(rarity.above(rarity.group(a))) for a in (figures, moved)]
            assert torch.equal(*bins)
            assert bins[0].unique().tolist() == list(range(8))

    def test_a_missing_feature_neither_counts_nor_speaks(self, rarity: ConditionalRarity) -> None:
        rows = related(100)
        rows[:, 0] = 30.0
        missing = torch.zeros(100, 4, dtype=torch.bool)
        missing[:, 0] = True
        with torch.no_grad():
            found = rarity(rows, missing)
        assert float(found[:, 0].abs().max()) == 0.0
        other = rows.clone()
        other[:, 0] = -5.0
        torch.testing.assert_close(rarity(other, missing), found)

    def test_what_is_masked_is_predicted_without_itself(self, rarity: ConditionalRarity) -> None:
        """With as many groups as features a row is judged in as many passes, each feature from the three others."""
        assert GROUPS == 4
        rows = related(50)
        moved = rows.clone()
        moved[:, 2] += 1e-4  # within its bin
        nothing = torch.zeros(50, 4, dtype=torch.bool)
        torch.testing.assert_close(rarity(moved, nothing)[:, 2], rarity(rows, nothing)[:, 2])

    def test_five_features_fill_four_groups_unevenly(self) -> None:
        rarity = ConditionalRarity(5, 8)
        rarity.fit_bins(torch.randn(100, 5))
        found = rarity(torch.randn(7, 5), torch.zeros(7, 5, dtype=torch.bool))
        assert found.shape == (7, 5)
        assert bool((found >= 0).all())

    def test_what_is_rare_but_contradicts_nothing_is_left_to_others(self, rarity: ConditionalRarity) -> None:
        rows = related(300)
        rows[:, 0] = rows[:, 1] = 2.6
        nothing = torch.zeros(300, 4, dtype=torch.bool)
        with torch.no_grad():
            assert float(rarity(rows, nothing)[:, :2].mean()) < 0.2

    def test_a_broken_curve_is_not_drowned_by_features_that_depend_on_nothing(self, draws: Draws) -> None:
        """The second of twenty features is the square of the first; of half of the rows it is another row's."""

        def curved(n: int) -> Tensor:
            a = torch.randn(n, 20)
            a[:, 1] = a[:, 0] ** 2 + 0.1 * a[:, 1]
            return a

        a = curved(4000)
        rarity = ConditionalRarity(20, 64)
        rarity.fit_bins(a)
        for step in optimise(rarity, 2e-3, 0.0, 300, QUIET):
            step(rarity.loss(a[draws.rows(4000, 256)], draws))
        rows = curved(1000)
        rows[:500, 1] = rows[:500, 1].roll(1)
        with torch.no_grad():
            found = rarity(rows, torch.zeros(1000, 20, dtype=torch.bool)).sum(dim=1)
        above = (found[:500, None] > found[None, 500:]).float().mean()
        assert float(above) > 0.68


class TestNovelty:
    @staticmethod
    def fitted(x: Tensor) -> tuple[Ranks, Novelty]:
        ranks, novelty = Ranks(x.shape[1], 64), Novelty(x.shape[1])
        distinct = ranks.fit(x)
        novelty.fit(ranks(x)[1], distinct, torch.isnan(x))
        return ranks, novelty

    @staticmethod
    def judge(ranks: Ranks, novelty: Novelty, rows: Tensor) -> Tensor:
        missing = torch.isnan(rows)
        _, place, known = ranks(torch.nan_to_num(rows))
        return novelty(place, known, missing)

    def test_a_state_never_seen_and_states_that_never_met(self) -> None:
        state = torch.randint(5, (1000,)).to(torch.float64)
        x = torch.stack([state, state * 10.0], dim=1)
        ranks, novelty = self.fitted(x)
        rows = torch.tensor([[2.0, 20.0], [2.5, 20.0], [2.0, 30.0], [torch.nan, 30.0]], dtype=torch.float64)
        value, pairs = self.judge(ranks, novelty, rows).T
        assert value.tolist() == [0.0, pytest.approx(-math.log(0.5 / 1001)), 0.0, 0.0]
        beyond_the_least = pytest.approx(-math.log(0.5 / 1001) - LEAST_SURPRISE)
        assert pairs.tolist() == [0.0, beyond_the_least, beyond_the_least, 0.0]

    def test_pairs_that_are_just_surprising_enough_count_next_to_nothing(self) -> None:
        """Two features of 30 states, all pairs of them as likely: by and by nearly all have been seen."""
        rows = torch.arange(300, 3000, 25)
        x = torch.randint(30, (3000, 2), dtype=torch.float64)
        most = []
        for n in rows.tolist():
            ranks, novelty = self.fitted(x[:n])
            found = self.judge(
                ranks, novelty, torch.tensor([[0.0, 0.0], [3.0, 8.0], [31.0, 31.0]], dtype=torch.float64)
            )
            most.append(float(found[:, 1].max()))
        assert most[0] == 0.0
        assert most[-1] > 1.0
        assert float(torch.tensor(most).diff().abs().max()) < 0.2

    def test_a_new_measurement_is_no_surprise(self) -> None:
        x = torch.randn(1000, 3, dtype=torch.float64)
        ranks, novelty = self.fitted(x)
        assert novelty.first.shape == (0,)
        assert self.judge(ranks, novelty, torch.randn(10, 3, dtype=torch.float64)).abs().max() == 0.0

    def test_the_chance_of_something_new_is_the_share_of_what_was_seen_once(self) -> None:
        once_in_four = torch.cat([torch.arange(25), torch.arange(25, 50).repeat(3)])
        assert good_turing(once_in_four) == pytest.approx(-math.log(25.5 / 101))


class TestLevels:
    def test_a_corrupted_row_keeps_its_shape_and_loses_features(self, draws: Draws) -> None:
        shown = corrupt(torch.ones(1000, 8), draws)
        assert shown.shape == (1000, 8)
        assert 0.05 < float((shown == 0.0).to(torch.float32).mean()) < 0.3

    def test_an_autoencoder_learns_to_undo_the_corruption(self, draws: Draws) -> None:
        a = related(2000)
        autoencoder = Autoencoder(4, 32, 2)
        before = float((autoencoder.decode(autoencoder.encode(a)) - a).abs().mean())
        for step in optimise(autoencoder, 5e-3, 0.0, 200, QUIET):
            clean = a[draws.rows(2000, 256)]
            step((autoencoder.decode(autoencoder.encode(corrupt(clean, draws))) - clean).pow(2).mean())
        assert float((autoencoder.decode(autoencoder.encode(a)) - a).abs().mean()) < 0.5 * before

    def test_fused_codes_are_standardised_and_come_apart_again(self) -> None:
        one, other = 5.0 + 3.0 * torch.randn(500, 3), -1.0 + 0.1 * torch.randn(500, 3)
        fusion = Fusion(2, 3)
        fusion.fit([one, other])
        fused = fusion([one, other])
        torch.testing.assert_close(fused.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
        torch.testing.assert_close(fused.std(dim=0), torch.ones(6), atol=0.02, rtol=0)
        for found, wanted in zip(fusion.inverse(fused), (one, other), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)

    def test_the_divergence_is_zero_at_the_prior_alone(self) -> None:
        assert float(divergence(torch.zeros(1, 3), torch.zeros(1, 3))) == 0.0
        assert float(divergence(torch.ones(1, 3), torch.zeros(1, 3))) == pytest.approx(1.5)
        assert float(divergence(torch.zeros(1, 3), torch.full((1, 3), -2.0))) > 0.0

    def test_outskirts_are_what_is_far_in_the_latent_space(self) -> None:
        mu = torch.cat([torch.randn(90, 2), torch.tensor([[30.0, 0.0]]).repeat(10, 1)])
        spread = LatentSpread(2)
        spread.fit(torch.randn(500, 2))
        assert set(select_outskirts(spread(mu), 0.1).tolist()) == set(range(90, 100))


class TestSynthesis:
    @pytest.fixture(params=[1, 2])
    def synthesiser(self, request: pytest.FixtureRequest) -> Synthesiser:
        """Of one code and of two that are fused."""
        v = torch.randn(400, 6)
        whiten, fusion = Whiten(3), Fusion(request.param, 4)
        whiten.fit(v[:, :3])
        one, other = Autoencoder(6, 16, 4), Autoencoder(3, 16, 4)
        fusion.fit([one.encode(v), other.encode(whiten(v[:, :3]))][: request.param])
        vae = VariationalAutoencoder(4 * request.param, 16, 2)
        mu = torch.randn(50, 2)
        return Synthesiser(whiten, one, other, fusion, vae, mu, torch.zeros(50, 2), mu.mean(dim=0))

    def test_the_way_back_from_the_whitened_descriptor_is_exact(self, synthesiser: Synthesiser) -> None:
        a = torch.randn(20, 3)
        back = synthesiser.whiten.inverse(synthesiser.whiten(a))
        torch.testing.assert_close(back, a, atol=1e-4, rtol=1e-4)

    def test_a_substituted_feature_changes_its_value_and_its_rank(self, synthesiser: Synthesiser, draws: Draws) -> None:
        inliers = torch.arange(3.0).repeat(100, 2)
        with torch.no_grad():
            rows = synthesiser.substitute(200, inliers, draws)
        changed = rows != inliers[:1]
        assert bool((changed[:, :3] == changed[:, 3:]).all())
        assert bool(changed[:, :3].any(dim=1).all())
        assert not bool(changed.all())

    def test_outside_samples_are_finite_and_bounded(self, synthesiser: Synthesiser, draws: Draws) -> None:
        with torch.no_grad():
            rows = synthesiser.outside(500, draws)
        assert rows.shape == (500, 6)
        assert float(rows.abs().max()) <= 12.0


class TestHead:
    def test_the_nearest_prototype_of_a_prototype_is_itself(self, draws: Draws) -> None:
        points = torch.randn(64, 3)
        book = CodeBook(64, 3)
        book.fit(points, draws)
        nearest, by_group, _, usual = book(points)
        assert float(nearest.max()) < 1e-2
        assert bool((by_group >= nearest).all())
        assert not bool(usual.any())
        away = book(torch.full((1, 3), 10.0))[0]
        assert float(away) == pytest.approx(float((points - 10.0).norm(dim=1).min()), rel=1e-4)

    def test_a_copy_of_a_prototype_is_no_way_off_in_any_batch(self, draws: Draws) -> None:
        points = torch.randn(2048, 60)
        book = CodeBook(2048, 60)
        book.fit(points, draws)
        with torch.no_grad():
            assert [float(book(points[:n])[0].max()) for n in (1, 7, 200, 2048)] == [0.0] * 4

    @pytest.mark.parametrize("count", [4, 9, 64, 100, 200])
    def test_relative_distance_is_that_of_the_local_outlier_factor(self, count: int, draws: Draws) -> None:
        points = torch.randn(count, 3)
        book = CodeBook(count, 3)
        book.fit(points, draws)
        k = min(5, count - 1)
        others = torch.cdist(points, points).fill_diagonal_(torch.inf)
        spacing = others.topk(k, largest=False).values.mean(dim=1)
        away = torch.randn(500, 3)
        distance, place = torch.cdist(away, points).topk(k, largest=False)
        expected = distance.mean(dim=1) / spacing[place].mean(dim=1)
        # Of two neighbours in one lane the nearer counts, and another one takes the place of the other.
        alike = torch.isclose(book(away)[2], expected, rtol=0.05)
        assert float(alike.float().mean()) > 0.8

    def test_a_step_away_from_dense_inliers_is_further_than_one_among_sparse_ones(self, draws: Draws) -> None:
        points = torch.cat([0.05 * torch.randn(100, 2), 20.0 + torch.randn(100, 2)])
        book = CodeBook(200, 2)
        book.fit(points, draws)
        nearest, _, relative, _ = book(torch.tensor([[0.8, 0.0], [23.5, 20.0]]))
        assert float(nearest[0]) < float(nearest[1])
        assert float(relative[0]) > 2.0 * float(relative[1])

    def test_copies_of_one_row_are_near_each_other(self, draws: Draws) -> None:
        points = torch.full((40, 3), 2.5)
        book = CodeBook(40, 3)
        book.fit(points, draws)
        assert torch.cat(book(points)[:3]).tolist() == pytest.approx([0.0] * 80 + [1.0] * 40, abs=1e-2)

    def test_prototypes_of_many_rows_sit_where_the_rows_are(self, draws: Draws) -> None:
        points = torch.cat([torch.randn(500, 2), 20.0 + torch.randn(500, 2)])
        book = CodeBook(8, 2)
        book.fit(points, draws)
        nearest = book(points)[0]
        assert float(nearest.mean()) < 1.5

    def test_normalised_statistics_do_not_depend_on_their_units(self) -> None:
        statistics = 100.0 * (torch.rand(1000, len(NAMES)) + 0.1)
        plain, scaled = NormaliseStatistics(), NormaliseStatistics()
        plain.fit(statistics)
        scaled.fit(1000.0 * statistics)
        torch.testing.assert_close(scaled(1000.0 * statistics), plain(statistics), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(plain(statistics).median(dim=0).values, torch.zeros(len(NAMES)), atol=0.01, rtol=0)

    def test_where_hardly_any_row_contradicts_a_little_contradiction_is_not_more_than_all_else(self) -> None:
        statistics = torch.rand(1000, len(NAMES)) + 0.1
        rarity = [NAMES.index("rarity_sum"), NAMES.index("rarity_largest")]
        statistics[:, rarity] = 0.0
        normalise = NormaliseStatistics()
        normalise.fit(statistics)
        little, much = statistics[:1].clone(), statistics[:1].clone()
        little[:, rarity], much[:, rarity] = 0.1, 3.9
        assert float(normalise(little)[0, rarity[0]]) < 1.0
        assert float(normalise(much)[0, rarity[0]]) > 8.0

    @pytest.mark.parametrize("alpha", [0.5, 1.0])
    def test_celu_is_that_of_pytorch(self, alpha: float) -> None:
        v = torch.linspace(-30.0, 30.0, 1001, requires_grad=True)
        ours, theirs = celu(v, alpha), torch.celu(v, alpha)
        assert torch.allclose(ours, theirs, atol=1e-6)
        (gradient,), (expected,) = torch.autograd.grad(ours.sum(), v), torch.autograd.grad(theirs.sum(), v)
        assert torch.allclose(gradient[v != 0], expected[v != 0], atol=1e-6)

    def test_exponentials_are_those_of_pytorch(self) -> None:
        v = torch.linspace(-80.0, 80.0, 1001)
        torch.testing.assert_close(exp(v), torch.exp(v), rtol=1e-5, atol=0.0)

    def test_compression_has_no_top(self) -> None:
        v = compress(torch.tensor([1.0, 24.0, 26.0, 1e3, 1e6]), 25.0)
        assert v[:2].tolist() == [1.0, 24.0]
        assert bool((v.diff() > 0).all())

    def test_what_is_stranger_never_looks_less_like_an_outlier(self, draws: Draws) -> None:
        classifier = Classifier(5, 16, 3)
        # Outliers whose first statistic is smaller than the inliers': a free classifier would learn just that.
        inliers, outliers = torch.randn(2000, 5), torch.randn(2000, 5) + torch.tensor([-3.0, 1.0, 1.0, 1.0, 1.0])
        for step in optimise(classifier, 1e-2, 0.0, 150, QUIET):
            step(classifier.loss(inliers[draws.rows(2000, 128)], outliers[draws.rows(2000, 128)]))
        with torch.no_grad():
            plain = classifier(inliers)
            assert float((classifier(outliers) > plain.median()).to(torch.float32).mean()) > 0.8
            for k in range(5):
                stranger = inliers.clone()
                stranger[:, k] += 1.0
                assert bool((classifier(stranger) >= plain - 1e-5).all())
