"""The reference: one early model that stays, and how far operation has moved away from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ad.detector import Detector
from stream_ad.learning import reference
from stream_ad.registry import ModelRegistry
from tests.test_registry import a_snapshot

ALPHA = 0.01


class StubDetector:
    """Flags the highest values of rows that are uniform in (0, 1), as many as its budget allows."""

    device = "cpu"

    def __init__(self) -> None:
        self._limit = 0.0

    def set_false_alarm_rate(self, rate: float) -> None:
        self._limit = 1.0 - rate

    def score(self, rows: np.ndarray) -> np.ndarray:
        return np.where(rows[:, 0] >= self._limit, 1.5, 0.5)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.setattr(Detector, "restore", lambda *_: StubDetector())
    return ModelRegistry(str(tmp_path), keep=2)


def uniform(n: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).random((n, 1))


def test_the_first_accepted_model_of_the_schema_is_the_reference(registry: ModelRegistry) -> None:
    assert registry.reference("first", "f1") is None
    registry.save(a_snapshot(accepted=False))
    assert registry.reference("first", "f1") is None
    registry.save(a_snapshot(schema_fingerprint="f0"))
    first = registry.save(a_snapshot())
    registry.save(a_snapshot())
    assert registry.reference("first", "f1") == first
    assert registry.reference("none", "f1") is None


def test_the_first_one_that_has_seen_enough_is_better(registry: ModelRegistry) -> None:
    early = registry.save(a_snapshot(report={"rows": 2000}))
    assert registry.reference("first", "f1") == early
    settled = registry.save(a_snapshot(report={"rows": 20_000}))
    registry.save(a_snapshot(report={"rows": 20_000}))
    assert registry.reference("first", "f1") == settled


def test_it_is_never_pruned(registry: ModelRegistry) -> None:
    first = registry.save(a_snapshot())
    for _ in range(5):
        latest = registry.save(a_snapshot())
        registry.set_live(latest)
        registry.prune(keep_also=registry.reference("first", "f1"))
    assert registry.reference("first", "f1") == first
    assert len(registry.versions()) == 3


def test_one_that_someone_deletes_or_that_was_rolled_back_gives_way_to_the_next(registry: ModelRegistry) -> None:
    first, second, third = (registry.save(a_snapshot()) for _ in range(3))
    registry._store.remove(first)
    assert registry.reference("first", "f1") == second
    registry.reject_rolled_back(second, "it flagged all")
    assert registry.reference("first", "f1") == third


def test_without_a_reference_yet_there_is_no_distance_and_nothing_to_tell(registry: ModelRegistry) -> None:
    assert reference.compare(registry, "first", "f1", uniform(), ALPHA, "cpu") == reference.Moved()


def test_operation_that_has_not_moved_is_at_a_distance_of_one(registry: ModelRegistry) -> None:
    first = registry.save(a_snapshot())
    moved = reference.compare(registry, "first", "f1", uniform(), ALPHA, "cpu")
    assert moved.reference == first
    assert moved.reference_distance == pytest.approx(1.0, abs=0.3)


def test_the_distance_grows_with_each_step_and_ends_at_one_over_the_budget(registry: ModelRegistry) -> None:
    registry.save(a_snapshot())
    distances = [
        reference.compare(registry, "first", "f1", uniform() + step, ALPHA, "cpu").reference_distance or 0.0
        for step in (0.0, 0.02, 0.1, 0.5, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[1] == pytest.approx(3.0, rel=0.2)
    assert distances[-1] == pytest.approx(1.0 / ALPHA)


def test_only_the_latest_rows_count(registry: ModelRegistry) -> None:
    registry.save(a_snapshot())
    rows = uniform()
    rows[: -round(reference.LATEST * len(rows))] += 1.0
    moved = reference.compare(registry, "first", "f1", rows, ALPHA, "cpu")
    assert moved.reference_distance == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("20310304T090000000-abcd", "there is no model"), ("other", "another schema"), ("damaged", "is damaged")],
)
def test_a_reference_that_cannot_be_used_is_told_of(registry: ModelRegistry, wanted: str, why: str) -> None:
    version = registry.save(a_snapshot(schema_fingerprint="f0" if wanted == "other" else "f1"))
    if wanted == "damaged":
        (Path(registry.path) / version / "weights.safetensors").write_bytes(b"half")
    named = wanted if wanted.startswith("2031") else version
    moved = reference.compare(registry, named, "f1", uniform(), ALPHA, "cpu")
    assert moved.reference_distance is None
    assert why in moved.reference_note
    assert f"training.reference {named}" in moved.reference_note
