"""The false-alarm rate stays at the budget from retrain to retrain, on a stationary plant, with and without faults."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.detector import Detector, Recipe
from stream_ad.learning.window import InlierWindow
from stream_ad.simulation import Plant

ALPHA = 0.01
WINDOW = 12_000
BRISK = Recipe(autoencoder_steps=150, rarity_steps=75, vae_steps=80, classifier_steps=120, synthetic_outliers=2000)


@pytest.mark.parametrize("fault_rate", [0.0, 0.5])
def test_the_false_alarm_rate_holds_over_twenty_retrains(fault_rate: float) -> None:
    plant = Plant(seed=3, drift=False, fault_rate=fault_rate, fault_free_rows=WINDOW)
    window = InlierWindow(WINDOW, 12, ALPHA)
    window.add(plant.rows(WINDOW).values, np.full(WINDOW, np.nan))
    judged = Plant(seed=3, drift=False)
    judged.rows(1_000_000)
    judged_rows = judged.rows(30_000).values
    ratios, found, faults = [], 0, 0
    for retrain in range(21):
        rows = window.training_rows(retrain)
        detector = Detector(ALPHA, "cpu", seed=retrain, recipe=BRISK).fit(
            rows.rows, flagged=rows.flagged, flagged_place=rows.flagged_place, truncated=rows.truncated(ALPHA)
        )
        ratios.append(float((detector.score(judged_rows) >= 1.0).mean()) / ALPHA)
        fresh = plant.rows(WINDOW)
        score = detector.score(fresh.values)
        window.add(fresh.values, score)
        for fault in np.unique(fresh.fault[fresh.fault > 0]):
            faults += 1
            found += bool((score[fresh.fault == fault] >= 1.0).any())
    shown = np.round(ratios, 2).tolist()
    assert 0.67 < np.mean(ratios[-10:]) < 1.6, shown
    assert all(0.5 <= ratio <= 2.2 for ratio in ratios), shown
    assert found >= 0.9 * faults, "anomalies must not lift the threshold above themselves"
