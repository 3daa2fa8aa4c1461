"""Roll-back: a new model that alarms far more than the one before it gives way to that one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream_ad.learning.follower import LoadedModel
from stream_ad.learning.rollback import SAMPLE, SPANS, Comparison, RollBack, Sample
from stream_ad.registry import ModelRegistry
from tests.test_registry import a_snapshot

ALPHA = 0.001
ROWS = 5000


class StubDetector:
    """Flags rows by a rule of their first value, and says how many it has scored."""

    def __init__(self, flags: Callable[[np.ndarray], np.ndarray]) -> None:
        self._flags = flags
        self.scored = 0

    def score(self, rows: np.ndarray, sequence: np.ndarray | None = None) -> np.ndarray:
        self.scored += len(rows)
        return np.where(self._flags(rows[:, 0]), 2.0, 0.5)


def beyond(limit: float) -> StubDetector:
    return StubDetector(lambda value: value >= limit)


ONE_KEY = np.zeros(20_000, np.int64)
FLAGS_ALL = beyond(0.0)
STRICT = beyond(0.9)
SOUND = beyond(1.0 - ALPHA)


class Plant:
    """A registry with a model live before and the new one, and the roll-back that watches."""

    def __init__(self, folder: Path, before: StubDetector, new: StubDetector) -> None:
        self.registry = ModelRegistry(str(folder), keep=5)
        self.detectors = {self.registry.save(a_snapshot()): detector for detector in (before, new)}
        self.before, self.new = sorted(self.detectors)
        self.roll_back = RollBack(self.registry, ROWS, ALPHA)
        self.registry.set_live(self.before)
        self.roll_back.swapped(self.loaded(self.before))
        self.registry.set_live(self.new)
        self.roll_back.swapped(self.loaded(self.new))

    def loaded(self, version: str) -> LoadedModel:
        return LoadedModel(version, 0.0, self.detectors[version])  # type: ignore[arg-type]  # it scores, which is enough

    def pass_rows(self, values: np.ndarray, model: str | None = None, batch: int = 500) -> bool:
        """Show rows [n] with the live model's scores; True if a roll-back comes of it."""
        detector = self.detectors[model or self.new]
        for first in range(0, len(values), batch):
            rows = values[first : first + batch, None]
            self.roll_back.observe(rows, detector.score(rows), ONE_KEY[: len(rows)])
        return self.ended()

    def ended(self) -> bool:
        if self.roll_back._thread is not None:
            self.roll_back._thread.join()
        return self.roll_back.rolled_back()


def inliers(n: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n)


def test_the_model_before_comes_back_when_the_new_one_alarms_far_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    assert not plant.pass_rows(inliers()[: ROWS - 1])
    assert plant.registry.live() == plant.new
    assert plant.pass_rows(inliers(1))
    assert plant.registry.live() == plant.before
    assert not plant.roll_back.rolled_back(), "it is told once"
    marked = next(model for model in plant.registry.list() if model.version == plant.new)
    assert (marked.accepted, marked.rolled_back) == (False, True)
    assert f"of 5000 rows of the stream, of which model {plant.before}" in marked.reasons[0]
    assert f"model {plant.new} is rolled back" in caplog.text


def test_what_was_rolled_back_is_no_way_out_any_more(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=FLAGS_ALL)
    assert plant.pass_rows(inliers())
    (tmp_path / "live").write_bytes(b"torn")
    found = plant.registry.load_live()
    assert found is not None
    assert found.version == plant.before


def test_the_snapshot_is_whole_after_it_was_marked(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=FLAGS_ALL)
    plant.pass_rows(inliers())
    again = plant.registry.load(plant.new)
    assert again.weights.keys() == a_snapshot().weights.keys()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize(
    ("before", "new", "why"),
    [
        (SOUND, SOUND, "both hold the budget"),
        (STRICT, STRICT, "both alarm too often"),
        (STRICT, SOUND, "the new one is better"),
        (FLAGS_ALL, STRICT, "to the old one all that is new is strange"),
        (beyond(0.96), STRICT, "it alarms more, but not far more"),
    ],
)
def test_a_new_model_that_is_not_much_worse_stays(
    tmp_path: Path, before: StubDetector, new: StubDetector, why: str
) -> None:
    plant = Plant(tmp_path, before, new)
    assert not plant.pass_rows(inliers(SPANS * ROWS)), why
    assert plant.registry.live() == plant.new


def test_a_burst_of_faults_after_a_swap_is_no_reason_to_go_back(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=beyond(1.0 - 2 * ALPHA))
    rows = inliers()
    rows[1000:2000] = 5.0
    assert not plant.pass_rows(rows)
    assert plant.registry.live() == plant.new


def test_a_fault_that_the_new_model_alone_sees_is_no_reason_to_go_back(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=beyond(9.0), new=SOUND)
    rows = inliers()
    rows[1000:2500] = 5.0
    assert not plant.pass_rows(rows)
    assert plant.registry.live() == plant.new


def test_a_model_that_flags_most_rows_is_not_waited_for(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=FLAGS_ALL)
    assert plant.pass_rows(inliers(ROWS // 10))
    assert plant.registry.live() == plant.before


def test_a_burst_does_not_hide_a_bad_model(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    rows = inliers()
    rows[1000:1050] = 5.0
    assert plant.pass_rows(rows)


def test_the_model_before_is_asked_only_where_the_new_one_leaves_its_band(tmp_path: Path) -> None:
    before = beyond(1.0 - ALPHA)
    plant = Plant(tmp_path, before, SOUND)
    plant.pass_rows(inliers(3 * ROWS))
    assert before.scored == 0
    plant = Plant(tmp_path / "bad", before, STRICT)
    plant.pass_rows(inliers())
    assert 0 < before.scored <= 2 * SAMPLE


def test_the_watch_ends_after_some_spans(tmp_path: Path) -> None:
    before = beyond(0.9)
    plant = Plant(tmp_path, before, beyond(0.9))
    for seed in range(SPANS + 3):
        plant.pass_rows(inliers(seed=seed))
    assert 0 < before.scored <= SPANS * 2 * SAMPLE


def test_neither_going_back_nor_what_a_person_puts_live_again_is_watched(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    assert plant.pass_rows(inliers())
    plant.roll_back.swapped(plant.loaded(plant.before))
    plant.pass_rows(inliers(), plant.before)
    assert plant.registry.live() == plant.before
    plant.registry.rollback(plant.new)
    plant.roll_back.swapped(plant.loaded(plant.new))
    assert not plant.pass_rows(inliers())
    assert plant.registry.live() == plant.new


def test_a_model_that_was_made_live_meanwhile_is_left_alone(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    newest = plant.registry.save(a_snapshot())
    plant.registry.set_live(newest)
    assert not plant.pass_rows(inliers())
    assert plant.registry.live() == newest
    assert all(model.accepted for model in plant.registry.list())


def test_a_registry_that_cannot_be_written_costs_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    plant.registry._store.remove(plant.before)
    assert not plant.pass_rows(inliers())
    assert f"model {plant.new} cannot be rolled back to {plant.before}: there is no model" in caplog.text


def test_rows_without_a_score_are_not_counted(tmp_path: Path) -> None:
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    plant.roll_back.observe(np.zeros((ROWS, 1)), np.full(ROWS, np.nan), ONE_KEY[:ROWS])
    assert not plant.ended()
    assert plant.registry.live() == plant.new


def test_another_budget_ends_the_watch(tmp_path: Path) -> None:
    """The model before still has the threshold of the old one."""
    plant = Plant(tmp_path, before=SOUND, new=STRICT)
    plant.roll_back.apply(ROWS, 0.01)
    assert not plant.pass_rows(inliers())


def test_the_sample_is_uniform_over_all_rows() -> None:
    sample = Sample(500)
    for first in range(0, 20_000, 300):
        rows = np.arange(first, min(20_000, first + 300))
        sample.add(rows[:, None].astype(float), rows)
    assert sample.offered == 20_000
    assert sample.rows is not None
    assert sample.rows.shape == (500, 1)
    assert len(np.unique(sample.rows)) == 500
    assert np.array_equal(sample.rows[:, 0], sample.sequence), "each row keeps its sequence"
    assert sample.share(lambda rows, sequence: rows[:, 0] >= 10_000) == pytest.approx(0.5, abs=0.07)


def test_a_comparison_wants_both_an_excess_and_far_more_alarms() -> None:
    assert Comparison(5000, 500, 490.0, 10.0).new_is_worse(ALPHA)
    assert not Comparison(5000, 20, 20.0, 0.0).new_is_worse(ALPHA), "within the band"
    assert not Comparison(5000, 500, 330.0, 170.0).new_is_worse(ALPHA), "not three times as many"
