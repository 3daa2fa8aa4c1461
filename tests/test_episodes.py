"""Episodes and the cooldown: what of the flagged rows reaches somebody on call."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ad import episodes
from stream_ad.config import Config
from stream_ad.episodes import Alerts, Emit
from stream_ad.records import NO_TIMESTAMP, Batch, RawBatch, RecordSchema, Status, Verdicts, encode
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports.base import SourceStatistics
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.running import plant_json, publish_model

SCHEMA = RecordSchema(["a", "b"])


class Stream:
    """Scored batches as the worker hands them on, and what the alerts make of them."""

    def __init__(self, emit: Emit = "episodes", cooldown: float = 0.0) -> None:
        self.alerts = Alerts(emit, cooldown, SCHEMA)
        self.offset = 0

    def send(
        self,
        scores: list[float],
        keys: list[bytes | None] | None = None,
        times: list[int] | None = None,
        share: list[float] | None = None,
        now: float = 0.0,
    ) -> list[dict[str, Any]]:
        """One row a score, NaN for one that no model scored; `times` in seconds; `share` is that of feature a."""
        n = len(scores)
        stamps = np.full(n, NO_TIMESTAMP, np.int64) if times is None else 1000 * np.array(times, np.int64)
        offsets = self.offset + np.arange(n)
        self.offset += n
        keys = keys or [None] * n
        raw = RawBatch([b""] * n, keys, [()] * n, stamps, ["t"] * n, np.zeros(n, np.int32), offsets)
        ids: list[str | int] = [f"row-{offset}" for offset in offsets]
        batch = Batch(raw, np.zeros((n, 2)), np.arange(n), np.full(n, -1), ids, keys, stamps, np.zeros(n, np.bool_))
        score = np.array(scores)
        flagged = np.flatnonzero(score >= 1.0)
        of_a = np.array(share or [0.75] * n)[flagged]
        verdicts = Verdicts(
            status=np.where(np.isnan(score), Status.UNSCORED, Status.SCORED).astype(np.uint8),
            score=score,
            p_value=score,
            is_anomaly=score >= 1.0,
            flagged=flagged,
            expected=np.column_stack([score[flagged], -score[flagged]]),
            attribution=np.column_stack([of_a, 1.0 - of_a]),
            imputed=np.zeros(n, np.bool_),
            model="m1",
        )
        _, values = self.alerts.of(batch, verdicts, encode(batch, verdicts, SCHEMA), now)
        return [json.loads(value) for value in values]


def told(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(record["status"], record["id"]) for record in records]


def test_an_episode_is_told_of_when_it_begins_and_when_it_ends_and_not_in_between() -> None:
    stream = Stream()
    assert told(stream.send([0.1, 1.5], times=[1, 2])) == [("began", "t-0-1")]
    assert stream.send([4.0, 1.1], times=[3, 4], share=[0.25, 0.5]) == []
    [ended] = stream.send([0.1, 0.2, 0.3], times=[5, 6, 7])
    assert ended == {
        "schema_version": 1,
        "id": "t-0-1",
        "key": None,
        "status": "ended",
        "start": "1970-01-01T00:00:02.000Z",
        "end": "1970-01-01T00:00:04.000Z",
        "peak_id": "row-2",
        "ended_by": "normal_rows",
        "rows": 3,
        "peak_score": 4.0,
        "top_features": ["a", "b"],
        "expected": {"a": 4.0, "b": -4.0},
        "attribution": {"a": 0.5, "b": 0.5},
        "suppressed": 0,
        "model": "m1",
        "source": {"topic": "t", "partition": 0, "offset": 1},
    }


def test_a_flicker_of_two_normal_rows_does_not_end_an_episode_and_three_do() -> None:
    stream = Stream()
    assert told(stream.send([2.0, 0.1, 0.1, 2.0])) == [("began", "t-0-0")]
    assert told(stream.send([0.1, 0.1])) == []
    assert told(stream.send([2.0, 0.1])) == []
    assert told(stream.send([0.1, 0.1, 2.0])) == [("ended", "t-0-0"), ("began", "t-0-10")]
    assert stream.alerts.news() == (2, 1, 0)


def test_one_batch_may_hold_several_episodes() -> None:
    quiet = [0.1] * 3
    records = Stream().send([2.0, *quiet, 3.0, 3.0, *quiet, 2.0])
    assert told(records) == [
        ("began", "t-0-0"), ("ended", "t-0-0"), ("began", "t-0-4"), ("ended", "t-0-4"), ("began", "t-0-9")
    ]  # fmt: skip
    assert [record["rows"] for record in records] == [1, 1, 2, 2, 1]


def test_each_key_has_episodes_of_its_own_and_rows_without_a_score_count_for_none() -> None:
    stream = Stream()
    records = stream.send([2.0, 0.1, 2.0, 0.1, 0.1], keys=[b"x", b"y", b"x", b"y", b"y"])
    assert [(record["key"], record["rows"]) for record in records] == [("x", 2)]
    nothing_known = float("nan")
    assert stream.send([nothing_known] * 3, keys=[b"x"] * 3) == []
    assert told(stream.send([0.1] * 3, keys=[b"x"] * 3)) == [("ended", "t-0-0")]


def test_how_a_stream_is_cut_into_batches_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(400) < 0.3, 2.0, 0.1).tolist()
    keys: list[bytes | None] = [b"%d" % key for key in rng.integers(0, 5, 400)]

    def ended(size: int) -> set[tuple[str, int]]:
        stream = Stream()
        parts = [stream.send(scores[i : i + size], keys=keys[i : i + size]) for i in range(0, 400, size)]
        return {(one["id"], one["rows"]) for part in parts for one in part if one["status"] == "ended"}

    assert len(ended(400)) > 10
    assert ended(1) == ended(7) == ended(400)


def test_a_key_that_falls_silent_has_no_open_episode_for_ever() -> None:
    stream = Stream()
    stream.send([2.0, 2.0], keys=[b"x", b"y"], now=0.0)
    stream.send([2.0], keys=[b"y"], now=1800.0)
    assert stream.alerts.of_silence(3599.0) == ([], [])
    keys, [ended] = stream.alerts.of_silence(3600.0)
    assert (keys, json.loads(ended)["ended_by"]) == ([b"x"], "silence")
    assert list(stream.alerts.episodes.open) == [b"y"]


def test_an_episode_whose_partition_is_read_elsewhere_now_is_dropped_and_not_told_of() -> None:
    stream = Stream()
    stream.send([2.0, 2.0], keys=[b"a", None])
    stream.alerts.forget({("t", 1), ("u", 0)})
    assert stream.alerts.news() == (2, 2, 0)
    stream.alerts.forget({("t", 0)})
    assert stream.alerts.news() == (0, 0, 0)
    assert stream.alerts.at_end("shutdown") == ([], [])


def test_the_longest_open_episode_is_known_until_it_ends() -> None:
    stream = Stream()
    stream.send([2.0], keys=[b"x"], now=100.0)
    stream.send([2.0, 2.0], keys=[b"x", b"y"], now=160.0)
    assert stream.alerts.longest_open() == 60.0
    stream.send([0.1] * 3, keys=[b"x"] * 3, now=170.0)
    assert stream.alerts.longest_open() == 0.0


def test_memory_is_bounded_however_many_keys_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "MOST_OPEN", 10)
    monkeypatch.setattr(episodes, "MOST_KEYS", 10)
    stream = Stream(cooldown=60.0)
    records = stream.send([2.0] * 25, keys=[b"%d" % i for i in range(25)])
    assert sum(record["ended_by"] == "too_many" for record in records) == 15
    assert len(stream.alerts.episodes.open) == len(stream.alerts.cooldown._last) == 10


def test_the_cooldown_holds_rows_back_by_their_times_and_says_how_many() -> None:
    stream = Stream("rows", cooldown=60.0)
    records = stream.send([2.0, 2.0, 2.0, 2.0], times=[0, 30, 59, 60])
    assert [(record["id"], record["suppressed"]) for record in records] == [("row-0", 0), ("row-3", 2)]
    assert stream.alerts.news() == (1, 1, 2)
    assert [record["id"] for record in stream.send([2.0], times=[4_000_000_000])] == ["row-4"]
    assert [record["id"] for record in stream.send([2.0], times=[61])] == ["row-5"], "a wild clock silences nobody"


def test_without_times_the_cooldown_goes_by_arrival_and_each_key_has_its_own() -> None:
    stream = Stream("rows", cooldown=60.0)
    assert len(stream.send([2.0, 2.0, 2.0], keys=[b"x", b"x", b"y"], now=1000.0)) == 2
    assert stream.send([2.0], keys=[b"x"], now=1059.0) == []
    [record] = stream.send([2.0], keys=[b"x"], now=1060.0)
    assert record["suppressed"] == 2


def test_without_a_cooldown_flagged_rows_go_out_as_they_are() -> None:
    stream = Stream("rows")
    records = stream.send([2.0, 0.1, 3.0])
    assert [record["score"] for record in records] == [2.0, 3.0]
    assert all("suppressed" not in record for record in records)


def test_an_episode_within_the_cooldown_is_counted_and_one_that_outlasts_it_is_told_of() -> None:
    stream = Stream(cooldown=60.0)
    over = [0.1] * 3
    assert told(stream.send([2.0, *over], times=[0, 1, 2, 3])) == [("began", "t-0-0"), ("ended", "t-0-0")]
    assert told(stream.send([2.0, *over], times=[10, 11, 12, 13])) == []
    assert told(stream.send([2.0], times=[30])) == []
    assert told(stream.send([2.0], times=[59])) == []
    [began] = stream.send([2.0], times=[60])
    assert (began["status"], began["id"], began["rows"], began["suppressed"]) == ("began", "t-0-8", 3, 1)
    assert told(stream.send(over, times=[61, 62, 63])) == [("ended", "t-0-8")]
    assert stream.alerts.news() == (3, 0, 1)


def config(folder: Path, emit: str) -> Config:
    return Config.model_validate(
        {
            "source": {"type": "memory"},
            "sink": {"type": "memory"},
            "schema": {"features": list(SENSORS), "id": "id"},
            "training": {"every_rows": None, "every_seconds": None},
            "alerts": {"false_alarm_rate": 0.005, "emit": emit},
            "registry": {"path": str(folder / "models")},
            "monitoring": {"host": "127.0.0.1", "port": 0},
            "detector": {"threads": 1},
        }
    )


@pytest.mark.parametrize("emit", ["rows", "episodes"])
def test_a_worker_tells_of_each_fault_by_rows_or_by_episodes(tmp_path: Path, emit: str) -> None:
    publish_model(tmp_path / "models")
    rows = Plant(0, drift=False).rows(300).values
    pump = SENSORS.index("pump_current")
    rows[100:110, pump] += 8.0
    rows[290:, pump] += 8.0
    source, sink = MemorySource(maximum_poll=64), MemorySink()
    worker = Worker(config(tmp_path, emit), source=source, sink=sink)
    source.append(plant_json(rows))
    source.close_input()
    assert worker.run() == 0
    assert len(sink.values) == 300
    records = [json.loads(value) for value in sink.anomalies]
    faulty = {f"memory-0-{100}", f"memory-0-{290}"}
    if emit == "rows":
        assert {f"row-{i}" for i in (*range(100, 110), *range(290, 300))} <= {record["id"] for record in records}
        return
    of_faults = [record for record in records if record["id"] in faulty]
    assert [(record["status"], record["ended_by"]) for record in of_faults] == [
        ("began", None), ("ended", "normal_rows"), ("began", None), ("ended", "end_of_source")
    ]  # fmt: skip
    assert of_faults[1]["rows"] == 10
    assert {record["top_features"][0] for record in of_faults} == {"pump_current"}
    value = worker.metrics.registry.get_sample_value
    assert value("stream_ad_episodes_total") == len(records) / 2
    assert value("stream_ad_open_episodes") == 0.0


def test_a_worker_tells_no_end_of_what_is_read_elsewhere_now(tmp_path: Path) -> None:
    class Revoked(MemorySource):
        def statistics(self) -> SourceStatistics:
            return replace(super().statistics(), revoked={("memory", 0)})

    publish_model(tmp_path / "models")
    rows = Plant(0, drift=False).rows(100).values
    rows[90:, SENSORS.index("pump_current")] += 8.0
    source, sink = Revoked(), MemorySink()
    source.append(plant_json(rows))
    source.close_input()
    assert Worker(config(tmp_path, "episodes"), source=source, sink=sink).run() == 0
    assert [json.loads(value)["status"] for value in sink.anomalies][-1] == "began"
