"""A rare and strange kind of operation is judged by what is usual there; the threshold is that of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stream_ad.detector import Detector
from stream_ad.detector.draws import Draws
from stream_ad.detector.kinds import into_cells, usual_by_kind
from tests.running import BRIEF

SENSORS = 6
CPU = torch.device("cpu")


def usual(rare: np.ndarray, raw: np.ndarray, sequence: np.ndarray | None = None) -> np.ndarray:
    """What `usual_by_kind` says of rows at two places, each with 50 prototypes; half of them are held out."""
    rng = np.random.default_rng(0)
    prototypes = torch.from_numpy(np.repeat([[0.0, 0.0], [9.0, 9.0]], 50, axis=0) + rng.normal(size=(100, 2))).float()
    nearest = torch.from_numpy(np.where(rare, 50, 0) + rng.integers(0, 50, len(rare)))
    of = torch.zeros(len(rare)) if sequence is None else torch.from_numpy(sequence)
    held = rng.random(len(rare)) < 0.5
    return usual_by_kind(prototypes, nearest[held], torch.from_numpy(raw[held]), nearest, of, Draws(0, CPU)).numpy()


def spells(times: int = 5, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Where a kind of operation is, in 400 rows in all, and raw scores."""
    rare = np.arange(rows) % (rows // times) < 400 // times
    return rare, np.random.default_rng(1).normal(size=rows) + 20.0 * rare


def test_what_is_usual_is_told_where_most_rows_are_stranger_than_elsewhere() -> None:
    level = usual(*spells())
    assert not level[:50].any()
    assert (level[50:] > 15.0).mean() > 0.9
    assert level[50:].max() < 22.0


def test_a_kind_that_is_calmer_or_hardly_stranger_is_like_all_others() -> None:
    rare, raw = spells()
    assert not usual(rare, raw - 40.0 * rare).any()
    assert not usual(rare, raw - 19.0 * rare).any()


def test_a_kind_of_which_six_in_ten_rows_are_strange_is_like_all_others() -> None:
    rare, raw = spells()
    some = rare & (np.random.default_rng(2).random(len(rare)) < 0.4)
    assert not usual(rare, raw - 20.0 * some).any()


def test_what_comes_once_or_twice_may_be_a_fault() -> None:
    assert not usual(*spells(times=1)).any()
    assert not usual(*spells(times=2)).any()


def test_what_has_come_to_stay_is_no_kind_of_its_own() -> None:
    late = np.arange(4000) >= 2200
    raw = np.random.default_rng(1).normal(size=4000) + 20.0 * late
    assert not usual(late, raw).any()


def test_rare_rows_that_do_not_follow_each_other_are_just_rare() -> None:
    order = np.random.default_rng(0).permutation(4000)
    assert not usual(*(column[order] for column in spells())).any()


def test_whether_rows_follow_each_other_is_asked_of_those_of_one_machine() -> None:
    machine = np.arange(4000) % 10
    rare = machine == 3
    raw = np.random.default_rng(1).normal(size=4000) + 20.0 * rare
    assert not usual(rare, raw).any()
    assert (usual(rare, raw, machine)[50:] > 15.0).mean() > 0.9


def test_a_few_points_far_from_the_others_are_a_cell_of_their_own() -> None:
    points = torch.cat([torch.randn(400, 3), torch.randn(8, 3) + 50.0])
    for seed in range(10):
        cell = into_cells(points, 4, Draws(seed, CPU))
        assert not torch.isin(cell[:400], cell[400:]).any()


def two_products(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a plant that makes another product one time in twenty, and where it does."""
    rng = np.random.default_rng(seed)
    most, other = (np.random.default_rng(i).normal(size=(2, SENSORS)) for i in (1, 2))
    loads, noise = rng.normal(size=(n, 2)), 0.3 * rng.normal(size=(n, SENSORS))
    rare = np.arange(n) % 1200 < 60
    return np.where(rare[:, None], 6.0 + loads @ other, loads @ most) + noise, rare


@pytest.mark.parametrize("seed", [3, 4])
def test_faults_of_the_usual_product_are_found_though_another_one_is_strange(seed: int) -> None:
    x, _ = two_products(12_000, 0)
    detector = Detector(0.01, "cpu", recipe=BRIEF).fit(x)
    sound, rare = two_products(6000, seed)
    faulty = two_products(6000, seed + 10)[0]
    faulty[np.arange(6000), np.arange(6000) % SENSORS] += 3.0
    assert (detector.score(sound) >= 1.0).mean() < 0.02
    assert (detector.score(sound[~rare]) >= 1.0).mean() > 0.002
    assert (detector.score(faulty[~rare]) >= 1.0).mean() > 0.87


def test_a_machine_far_from_the_others_does_not_get_most_of_the_alerts() -> None:
    def fleet(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        machine = np.arange(8000) % 40
        loads, noise = rng.normal(size=(8000, 2)), 0.2 * rng.normal(size=(8000, SENSORS))
        rows = loads @ np.random.default_rng(99).normal(size=(2, SENSORS)) + noise
        rows[machine == 0, :2] += 6.0
        return rows, machine

    rows, machine = fleet(0)
    detector = Detector(0.01, "cpu", recipe=BRIEF).fit(rows, sequence=machine)
    rows, machine = fleet(1)
    flagged = detector.score(rows) >= 1.0
    assert flagged[machine == 0].mean() < 0.06
    assert flagged[machine != 0].mean() == pytest.approx(0.01, abs=0.004)


def test_a_detector_that_was_kept_still_knows_what_is_usual() -> None:
    detector = Detector(0.01, "cpu", recipe=BRIEF).fit(two_products(12_000, 0)[0])
    assert 0.02 < detector.rare_share < 0.1, "one row in twenty is of the other product"
    again = Detector.restore(detector.description(), detector.tensors(), "cpu")
    assert again.rare_share == detector.rare_share
    x = two_products(1200, 1)[0]
    np.testing.assert_allclose(again.score(x), detector.score(x), rtol=1e-5)


def test_a_model_of_before_knows_no_kinds() -> None:
    detector = Detector(0.01, "cpu", recipe=BRIEF).fit(two_products(2000, 0)[0])
    tensors = {name: tensor for name, tensor in detector.tensors().items() if name != "codebook.usual"}
    again = Detector.restore(detector.description(), tensors, "cpu")
    assert again.rare_share == 0.0
    x = two_products(600, 1)[0]
    np.testing.assert_allclose(again.score(x), detector.score(x), rtol=1e-5)
