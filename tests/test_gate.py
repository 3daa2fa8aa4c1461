"""The gate: a sound model goes live, a broken one is stored with its reasons and the live one stays."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.calibration import Calibration
from stream_ad.detector.folds import ALONE
from stream_ad.learning import gate, training_job
from stream_ad.learning.window import InlierWindow, TrainingRows
from stream_ad.registry import ModelRegistry, Snapshot
from tests.test_trainer import FEATURES, a_job

TINY = Recipe(
    autoencoder_steps=100,
    rarity_steps=50,
    vae_steps=50,
    classifier_steps=80,
    synthetic_outliers=1000,
    cross_fit_below=0,
)
ALPHA = 0.01

Fit = Callable[[Detector, np.ndarray], Detector]


def plant(n: int, seed: int) -> np.ndarray:
    """Rows [n, 3] of three sensors that follow one load, each in a range of its own."""
    rng = np.random.default_rng(seed)
    load = rng.normal(size=(n, 1))
    return load * [1.0, 20.0, -3.0] + rng.normal(size=(n, 3)) * [0.1, 2.0, 0.3] + [5.0, 300.0, 0.0]


LEARNED = plant(2400, 0)


@pytest.fixture(scope="module")
def sound() -> Detector:
    return Detector(ALPHA, "cpu", recipe=TINY).fit(LEARNED)


@pytest.fixture(scope="module")
def taught_garbage() -> Detector:
    """A model of noise that fills the whole range."""
    return Detector(ALPHA, "cpu", recipe=TINY).fit(np.random.default_rng(0).uniform(-400.0, 400.0, size=(1000, 3)))


def with_module(detector: Detector, change: Callable[[Any], None]) -> Detector:
    """A detector like this one in which `change` has been made to the module."""
    other = Detector(ALPHA, "cpu", recipe=TINY)
    other.module = copy.deepcopy(detector.module)
    change(other.module)
    return other


def not_a_number(module: Any) -> None:
    with torch.no_grad():
        module.autoencoder_v.encoder[0].weight.fill_(torch.nan)


def one_score(module: Any) -> None:
    module.part_weight.zero_()


def without_calibration(module: Any) -> None:
    module.calibration = Calibration()


def threshold_too_high(module: Any) -> None:
    """Half of the rows that it was calibrated on were of an uproar."""
    rows = torch.from_numpy(np.concatenate([LEARNED, 20.0 * LEARNED]))
    with torch.no_grad():
        module.calibration.fit(module.raw_score(rows)[0], ALPHA)


def threshold_too_low(module: Any) -> None:
    """It was calibrated on rows that it had learned by heart."""
    table = module.calibration.table
    shift = float(table[len(table) // 2] - table[-1])
    table.add_(shift)
    module.calibration.tail[0] += shift


def features_swapped(module: Any) -> None:
    for name in ("mean", "scale"):
        getattr(module.standardise, name).copy_(getattr(module.standardise, name).flip(0))


class TestBlocksThatAreHeldOut:
    def training(self, n: int) -> TrainingRows:
        """Numbered rows, with a flagged one before each tenth."""
        place = np.arange(0, n, 10)
        one = np.zeros(n, np.int64)
        return TrainingRows(
            np.arange(n, dtype=float)[:, None], np.arange(n), one, np.ones(n), place[:, None] - 0.5, place, place, 1.0
        )

    def test_they_are_a_twentieth_of_the_window_and_near_its_end(self) -> None:
        learned, held_out = gate.hold_out(self.training(10_000))
        assert len(held_out.rows) == 500
        assert held_out.rows.min() > 8000
        assert held_out.rows.max() == 9999
        together = np.sort(np.concatenate([learned.rows, held_out.rows])[:, 0])
        np.testing.assert_array_equal(together, np.arange(10_000))

    def test_most_of_what_is_new_is_still_learned(self) -> None:
        learned, held_out = gate.hold_out(self.training(20_000))
        latest = 19_500
        assert (learned.rows >= latest).sum() >= 250
        assert (held_out.rows >= latest).sum() >= 100

    def test_flagged_rows_of_these_blocks_stay_out_and_the_others_keep_their_place(self) -> None:
        learned, held_out = gate.hold_out(self.training(4000))
        assert len(learned.flagged) == 400 - 20
        follower = np.append(learned.rows[:, 0], 4000.0)[learned.flagged_place]
        np.testing.assert_array_equal(follower, learned.flagged[:, 0] + 0.5)
        assert not set(held_out.rows[:, 0]) & set(learned.flagged[:, 0] + 0.5)

    def test_rows_that_a_person_labelled_are_learned(self) -> None:
        training = self.training(10_000)
        training.sequence[-100:-50] = ALONE
        learned, held_out = gate.hold_out(training)
        assert not (held_out.sequence == ALONE).any()
        assert (learned.sequence == ALONE).sum() == 50

    def test_a_small_window_is_learned_whole(self) -> None:
        learned, held_out = gate.hold_out(self.training(600))
        assert (len(learned.rows), len(held_out.rows)) == (600, 600)

    def test_a_model_is_not_tried_on_a_burst_that_it_was_spared(self) -> None:
        held_out = gate.hold_out(self.training(10_000))[1]
        first, last = int(held_out.position[0]), int(held_out.position[99])
        tried = held_out.outside([(first, last, 0)])
        assert len(tried.rows) == len(tried.sequence) == 400
        assert tried.rows.min() > last
        assert len(held_out.outside([(first, last, 1)]).rows) == 500, "that was another sequence's"
        everything = [(0, 10_000, 0)]
        assert len(held_out.outside(everything).rows) == 500, "with nothing else it is tried on what there is"


class TestSyntheticOutliers:
    def test_each_differs_from_its_row_and_lies_within_or_near_the_range(self) -> None:
        rows = plant(300, 1)
        outliers = gate.synthetic_outliers(rows, rows, seed=0)
        assert len(outliers) == 300, "none happens to get the value that it has"
        changed = outliers != rows
        assert changed.any(axis=1).all()
        assert (changed[0::3].sum(axis=1) == 1).all()
        assert (changed[2::3].sum(axis=1) == 1).all()
        assert np.isin(outliers[0::3], rows).all(), "values that were seen, together as they never were"
        moved = np.abs(outliers[2::3] - rows[2::3]).max(axis=0) / rows.std(axis=0)
        assert ((moved > 4.0) & (moved < 8.0)).all()

    def test_what_never_varies_stays_and_what_is_missing_is_no_donor(self) -> None:
        rows = np.c_[plant(300, 1), np.full(300, 7.0), np.full(300, np.nan)]
        rows[::2, 1] = np.nan
        outliers = gate.synthetic_outliers(rows, rows)
        assert (outliers[:, 3] == 7.0).all()
        assert np.isnan(outliers[:, 4]).all()
        assert np.isnan(outliers[:, 1]).mean() < 0.5
        assert len(gate.synthetic_outliers(rows[:, 3:], rows[:, 3:])) == 0

    def test_they_are_the_same_each_time(self) -> None:
        first, second = (gate.synthetic_outliers(plant(90, 1), plant(90, 2)) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_auroc_counts_ties_by_half() -> None:
    assert gate.auroc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])) == (1.5 + 3.0) / 6.0


def test_of_rows_that_were_learned_outliers_may_look_ordinary(sound: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = sound.judge
    monkeypatch.setattr(sound, "judge", lambda x, of=None: replace(judge(x), p_value=0.5 + 0.5 * judge(x).p_value))
    rows = plant(1000, 1)
    assert gate.judge(sound, rows, LEARNED, sound, unseen=False).accepted
    assert "alert_rate" in gate.judge(sound, rows, LEARNED, sound).refusals


def test_a_sound_model_passes_and_its_figures_are_known(sound: Detector) -> None:
    verdict = gate.judge(sound, plant(1000, 1), LEARNED, sound)
    assert verdict.accepted, verdict.reasons
    assert verdict.alert_rate < 0.04
    assert verdict.auroc == pytest.approx(verdict.live_auroc, abs=1e-5)
    assert verdict.auroc is not None
    assert verdict.auroc > 0.85


def test_real_anomalies_do_not_stand_in_the_way_of_a_first_model(sound: Detector) -> None:
    """Nothing has kept them out of the window so far."""
    rows = plant(1000, 1)
    rows[200:260] *= 3.0
    assert gate.judge(sound, rows, LEARNED).accepted
    assert gate.judge(sound, rows, LEARNED, sound, screened=False).accepted, "nor of one for a new operating point"
    assert "alert_rate" in gate.judge(sound, rows, LEARNED, sound).refusals


@pytest.mark.parametrize("copies", [1, 300])
@pytest.mark.parametrize("missing", [0, 1])
def test_rows_that_are_all_alike_are_no_reason_to_refuse(sound: Detector, copies: int, missing: int) -> None:
    rows = np.tile(plant(1, 1), (copies, 1))
    rows[:, :missing] = np.nan
    assert gate.judge(sound, rows, LEARNED, sound).accepted


class TestATrainingThatGoesWrong:
    """The trainer's own way from window to registry, with a bad model in place of the one that it fits."""

    @pytest.fixture
    def registry(self, tmp_path: Path, sound: Detector, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
        """A registry in which a sound model is live, made by the trainer."""
        self.train(tmp_path, monkeypatch, sound)
        registry = ModelRegistry(str(tmp_path), 5)
        assert registry.live() is not None
        return registry

    def train(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, bad: Detector, moved_by: float = 0.0
    ) -> training_job.Result:
        def fit(self: Detector, x: np.ndarray, **more: object) -> Detector:
            self.module = bad.module
            return self

        monkeypatch.setattr(Detector, "fit", fit)
        window = InlierWindow(2400, 3, ALPHA)
        window.add(plant(2400, 2) + moved_by, np.full(2400, 0.5))
        job = folder / "job"
        job.mkdir(exist_ok=True)
        (job / training_job.JOB_FILE).write_text(json.dumps(asdict(replace(a_job(folder), parent=os.getppid()))))
        save_file({k: np.ascontiguousarray(v) for k, v in window.state().items()}, job / training_job.WINDOW_FILE)
        return training_job.run(job)

    @pytest.mark.parametrize(
        ("change", "check", "teaches"),
        [
            (not_a_number, "finite", "diverged"),
            (one_score, "constant", "same score"),
            (without_calibration, "finite", "diverged"),
            (threshold_too_low, "alert_rate", "threshold is too low"),
            (threshold_too_high, "alert_rate", "anomalies would pass"),
            (features_swapped, "alert_rate", "not normal now"),
        ],
    )
    def test_a_broken_model_is_refused_and_the_live_one_stays(
        self,
        registry: ModelRegistry,
        sound: Detector,
        monkeypatch: pytest.MonkeyPatch,
        change: Callable[[Any], None],
        check: str,
        teaches: str,
    ) -> None:
        live = registry.live()
        result = self.train(Path(registry.path), monkeypatch, with_module(sound, change))
        assert not result.accepted
        assert check in result.refused_by
        assert teaches in "; ".join(result.reasons)
        assert registry.live() == live
        verdict = registry.metadata(result.version)["verdict"]
        assert verdict == {"accepted": False, "reasons": result.reasons, "refused_by": result.refused_by}

    def test_a_model_of_garbage_is_refused_for_what_it_does_not_tell_apart(
        self, registry: ModelRegistry, taught_garbage: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = self.train(Path(registry.path), monkeypatch, taught_garbage)
        assert "auroc" in result.refused_by
        assert "the live model with 0.9" in "; ".join(result.reasons)

    def test_a_compiled_module_that_computes_something_else_is_refused(
        self, registry: ModelRegistry, sound: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        eager = Detector.score_eager
        monkeypatch.setattr(Detector, "score_eager", lambda self, rows: eager(self, rows) + 0.01)
        result = self.train(Path(registry.path), monkeypatch, sound)
        assert result.refused_by == ["compiled"]

    def test_a_sound_model_that_comes_too_late_is_no_way_back(
        self, registry: ModelRegistry, sound: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = registry.live()
        save = ModelRegistry.save

        def beaten(self: ModelRegistry, snapshot: Snapshot) -> str:
            self.set_live(save(self, snapshot))
            return save(self, snapshot)

        monkeypatch.setattr(ModelRegistry, "save", beaten)
        result = self.train(Path(registry.path), monkeypatch, sound)
        winner = registry.live()
        assert (result.accepted, result.refused_by) == (False, [])
        late = registry.list()[-1]
        assert (late.version, late.accepted, late.rolled_back) == (result.version, False, False)
        assert late.reasons == result.reasons
        assert f"{winner} was made live" in late.reasons[0]
        assert [model.version for model in registry.list() if model.accepted] == [live, winner]

    def test_a_sound_model_is_live_with_its_figures_in_the_report(
        self, registry: ModelRegistry, sound: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = self.train(Path(registry.path), monkeypatch, sound)
        assert result.accepted, result.reasons
        assert registry.live() == result.version
        report = registry.metadata(result.version)["report"]
        assert report["auroc"] == pytest.approx(report["live_auroc"], abs=1e-5)
        assert len(FEATURES) == len(report["missing_share"])

    def test_how_far_operation_has_moved_from_the_first_model_is_reported_whatever_becomes_of_the_new_one(
        self, registry: ModelRegistry, sound: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        near = self.train(Path(registry.path), monkeypatch, sound)
        assert near.reference_distance == pytest.approx(1.0, abs=1.0)
        far = self.train(Path(registry.path), monkeypatch, sound, moved_by=1.0)
        assert far.reference_distance is not None
        assert far.reference_distance > 20.0
        report = registry.metadata(far.version)["report"]
        assert report["reference_distance"] == far.reference_distance
        assert report["reference"] == registry.versions()[0]
