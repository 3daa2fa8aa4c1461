"""How the simulated plant is sent."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from stream_ad.config import load
from stream_ad.producing import CHUNK, plant_records

CONFIG = load(Path(__file__).parents[1] / "config.yaml", [])


@pytest.mark.parametrize(("rate", "chunk"), [(None, CHUNK), (200.0, 200), (0.5, 1), (1e6, CHUNK)])
def test_plant_comes_in_chunks_of_a_second_at_most(rate: float | None, chunk: int) -> None:
    records = plant_records(CONFIG, 10**9, seed=0, fault_rate=0.5, rate=rate)
    assert [len(part) for part in islice(records, 3)] == [chunk] * 3


def test_the_last_chunk_is_what_is_left() -> None:
    assert [len(part) for part in plant_records(CONFIG, 250, seed=0, fault_rate=0.5, rate=100.0)] == [100, 100, 50]
