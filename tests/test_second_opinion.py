"""What a young model flagged is judged once more, by models that saw other stretches like it."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.detector import Findings
from stream_ad.learning import second_opinion
from stream_ad.learning.second_opinion import admit_recurring
from stream_ad.learning.window import InlierWindow

ALPHA = 0.01
CAPACITY = 4000


class Nearest:
    """A detector that finds strange what is far from all that it learned."""

    false_alarm_rate = ALPHA
    trainings = 0

    def __init__(self, *settings: object) -> None:
        self.learned = np.empty(0)

    def fit(self, x: np.ndarray, judged: bool, progress: object) -> Nearest:
        Nearest.trainings += 1
        self.learned = np.sort(x[:, 0])
        return self

    def judge(self, x: np.ndarray) -> Findings:
        at = np.searchsorted(self.learned, x[:, 0]).clip(1, len(self.learned) - 1)
        distance = np.minimum(np.abs(x[:, 0] - self.learned[at - 1]), np.abs(x[:, 0] - self.learned[at]))
        p_value = np.exp(-distance)
        return Findings(-np.log(p_value), p_value, x)


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    Nearest.trainings = 0
    monkeypatch.setattr(second_opinion, "Detector", Nearest)


def a_window(n: int, *flagged: tuple[int, int, float], sequence: np.ndarray | None = None) -> InlierWindow:
    """n rows around 0, with stretches (start, end, value) that the model flagged."""
    values = np.random.default_rng(0).normal(size=(n, 1))
    score = np.full(n, 0.2)
    for start, end, value in flagged:
        values[start:end] = value + 0.1 * values[start:end]
        score[start:end] = 2.5
    window = InlierWindow(CAPACITY, 1, ALPHA)
    window.add(values, score, sequence)
    return window


def test_what_comes_again_in_another_stretch_is_taken_for_normal() -> None:
    window = a_window(3000, (500, 560, 50.0), (1500, 1560, 50.0), (2500, 2560, 50.0))
    admitted = admit_recurring(window, Detector(device="cpu"))
    assert admitted >= 170
    assert len(window) == 2820 + admitted and len(window.quarantine) == 180 - admitted


def test_what_was_there_once_stays_flagged() -> None:
    window = a_window(3000, (500, 560, 50.0), (1500, 1560, -50.0), (2500, 2560, 90.0))
    assert admit_recurring(window, Detector(device="cpu")) == 0
    assert len(window.quarantine) == 180


def test_what_comes_again_is_found_whatever_lies_between() -> None:
    """A false alarm between the two stretches, which had them fall into one half."""
    window = a_window(3000, (500, 560, 50.0), (1000, 1001, 9.0), (1500, 1560, 50.0))
    assert admit_recurring(window, Detector(device="cpu")) >= 110


def test_one_long_fault_does_not_vouch_for_itself() -> None:
    """Not even if some of its rows are not flagged."""
    window = a_window(3000, *((start, start + 50, 50.0) for start in range(1000, 1600, 60)))
    assert admit_recurring(window, Detector(device="cpu")) == 0


def test_a_stretch_is_one_of_rows_of_one_key() -> None:
    """Two keys by turns: what both show at the same time are two stretches."""
    sequence = np.arange(3000) % 2
    window = a_window(3000, (1000, 1200, 50.0), sequence=sequence)
    assert admit_recurring(window, Detector(device="cpu")) >= 190


def test_a_full_window_gives_no_second_opinion() -> None:
    window = a_window(CAPACITY, (500, 560, 50.0), (1500, 1560, 50.0))
    window.add(np.zeros((1, 1)), np.array([0.2]))
    assert admit_recurring(window, Detector(device="cpu")) == 0
    assert Nearest.trainings == 0


def test_a_model_that_flags_as_much_as_it_may_is_not_asked_again() -> None:
    window = a_window(3000, (500, 520, 50.0), (1500, 1520, 50.0))
    assert admit_recurring(window, Detector(device="cpu")) == 0
    assert Nearest.trainings == 0


def test_a_window_without_scores_needs_none() -> None:
    window = InlierWindow(CAPACITY, 1, ALPHA)
    window.add(np.zeros((1000, 1)), np.full(1000, np.nan))
    assert admit_recurring(window, Detector(device="cpu")) == 0


def test_with_the_real_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_opinion, "Detector", Detector)
    short = Recipe(autoencoder_steps=60, rarity_steps=30, vae_steps=30, classifier_steps=60, synthetic_outliers=500)
    rng = np.random.default_rng(1)
    values, score = rng.normal(size=(1200, 3)), np.full(1200, 0.2)
    for start, value in ((200, 9.0), (600, 9.0), (1000, 9.0), (800, -30.0)):
        values[start : start + 40] = value + 0.2 * values[start : start + 40]
        score[start : start + 40] = 3.0
    window = InlierWindow(CAPACITY, 3, ALPHA)
    window.add(values, score)
    admit_recurring(window, Detector(device="cpu", recipe=short))
    left = window.quarantine.ordered().values[:, 0]
    assert (left < -20.0).sum() == 40
    assert (left > 5.0).sum() < 30
