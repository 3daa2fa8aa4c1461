"""Rows that are judged with their past and their hour: `schema.window` and `schema.calendar`, through the worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from stream_ad.config import Config, warnings
from stream_ad.config.loading import ConfigError, load
from stream_ad.detector import Detector, Recipe
from stream_ad.detector.temporal import TemporalContext
from stream_ad.learning import LoadedModel, unseen_hours
from stream_ad.offline import score as score_file
from stream_ad.offline import train as train_from_file
from stream_ad.records import Batch, RecordSchema, Verdicts, make_decoder
from stream_ad.registry import ModelRegistry, SchemaMismatch
from stream_ad.scoring import Scorer
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.running import SHORT, wait_until
from tests.test_worker import score_all, settings

Float64 = NDArray[np.float64]

FEATURES = ["load", "speed", "flow"]
WINDOW = 16
WIDTH = 5 * len(FEATURES) + 4
MINUTES = 20
DAYS = 28
ROWS = DAYS * 24 * 60 // MINUTES
PUMPS = ("stuck", "pattern", "hour", "good")
FAULT = slice(200, 260)
SEEN = slice(200 + WINDOW, 260)
SCHEMA = RecordSchema(FEATURES, id="id", key="pump", timestamp="ts", window=WINDOW, calendar=True)


def in_time(registry: Path, **changes: Any) -> Config:
    context = {"schema__key": "pump", "schema__timestamp": "ts", "schema__window": WINDOW, "schema__calendar": True}
    return settings(registry, **({"schema__features": FEATURES} | context | changes))


def sensors(n: int, seed: int, speed: Float64 | None = None) -> Float64:
    """A load that follows the hour, a speed of its own, slow, and a flow that follows both. [n, 3]"""
    rng = np.random.default_rng(seed)
    load = np.cos(2.0 * np.pi * np.arange(n) * MINUTES / (24 * 60))
    if speed is None:
        speed = np.sin(np.arange(n) / 25.0 + seed)
    noise = 0.05 * rng.normal(size=(n, 3))
    noise[speed == np.roll(speed, 1), 1] = 0.0
    return np.c_[load, speed, 0.5 * load + 0.5 * speed] + noise


def records(values: Float64, pump: str, late_hours: float = 0.0) -> list[bytes | None]:
    stamps = 1_930_000_000 // 86_400 * 86_400 + np.arange(len(values)) * MINUTES * 60 + late_hours * 3600.0
    return [
        orjson.dumps({"id": f"{pump}-{i}", "pump": pump, "ts": stamp, **dict(zip(FEATURES, row, strict=True))})
        for i, (row, stamp) in enumerate(zip(values.tolist(), stamps.tolist(), strict=True))
    ]


def interleaved(*streams: list[bytes | None]) -> list[bytes | None]:
    return [record for together in zip(*streams, strict=True) for record in together]


def training_stream() -> list[bytes | None]:
    return interleaved(*(records(sensors(ROWS, seed), f"pump-{seed}") for seed in range(2)))


def faulty_stream() -> list[bytes | None]:
    """Four pumps in turn, each with a fault of its own that no single row shows, but the good one."""
    speeds = {pump: np.sin(np.arange(400) / 25.0 + 7 + i) for i, pump in enumerate(PUMPS)}
    speeds["stuck"][FAULT] = speeds["stuck"][FAULT.start - 1]
    speeds["pattern"][FAULT] = np.random.default_rng(0).permutation(np.sin(np.arange(60) / 9.0))
    streams = [records(sensors(400, 10 + i, speeds[pump]), pump) for i, pump in enumerate(PUMPS)]
    late = records(sensors(400, 12, speeds["hour"]), "hour", late_hours=12.0)
    streams[PUMPS.index("hour")][FAULT] = late[FAULT]
    return interleaved(*streams)


def decoded(stream: list[bytes | None], schema: RecordSchema = SCHEMA) -> Batch:
    source = MemorySource(maximum_poll=len(stream))
    source.append(stream)
    return make_decoder(schema).decode(source.poll(0.0)).batch


def extended(stream: list[bytes | None]) -> Float64:
    """The whole stream, extended at once."""
    return Scorer(SCHEMA, None).extend(decoded(stream))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Worker]]:
    """A registry with a model that a worker has learned from the stream, and that worker, which has ended."""
    registry = tmp_path_factory.mktemp("models")
    source, sink = MemorySource(), MemorySink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream_ad.learning.learner.Recipe", lambda: SHORT)
        config = in_time(registry, training__min_rows=4000, training__window_rows=2 * ROWS)
        worker = Worker(config, source=source, sink=sink)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        source.append(training_stream())
        wait_until(lambda: worker.status()["model"] or worker.status()["failure"], 250)
        worker.stop()
        thread.join(60)
    yield registry, worker


@pytest.fixture(scope="module")
def found(learned: tuple[Path, Worker], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the worker says of the stream with faults, by pump."""
    source, sink = MemorySource(), MemorySink()
    # In a registry of its own: a worker that ends keeps its window there.
    worker = Worker(
        in_time(copytree(learned[0], tmp_path_factory.mktemp("found") / "models")), source=source, sink=sink
    )
    assert score_all(worker, source, faulty_stream()) == 0
    assert worker._learner.window.quarantine.ordered().values.shape[1] == WIDTH
    outputs = [json.loads(value) for value in sink.values]
    return {pump: [one for one in outputs if one["key"] == pump] for pump in PUMPS}


@pytest.mark.parametrize("pump", ["stuck", "pattern", "hour"])
def test_what_no_single_row_shows_is_flagged(found: dict[str, list[dict[str, Any]]], pump: str) -> None:
    """A stuck sensor, a wrong pattern, the right values at the wrong hour."""
    flagged = [one["is_anomaly"] for one in found[pump]]
    assert np.mean(flagged[SEEN]) > 0.4, "by a short training; of rows by themselves it is one in two hundred"
    assert np.mean(flagged[: FAULT.start]) < 0.05


def test_a_good_pump_among_faulty_ones_raises_no_alarm(found: dict[str, list[dict[str, Any]]]) -> None:
    assert np.mean([one["is_anomaly"] for one in found["good"]]) < 0.05


def test_a_flagged_row_names_the_features_themselves(found: dict[str, list[dict[str, Any]]]) -> None:
    stuck = [one for one in found["stuck"][SEEN] if one["is_anomaly"]]
    for one in stuck:
        assert list(one["attribution"]) == list(one["expected"]) == FEATURES
        assert sum(one["attribution"].values()) == pytest.approx(1.0)
    assert np.mean([max(one["attribution"], key=one["attribution"].get) == "speed" for one in stuck]) > 0.8


def test_the_first_row_of_a_key_is_scored_and_lacks_nothing(found: dict[str, list[dict[str, Any]]]) -> None:
    for pump in PUMPS:
        assert found[pump][0]["status"] == "scored"
        assert not found[pump][0].get("imputed")


def scorer_of(registry: Path) -> Scorer:
    snapshot = ModelRegistry(str(registry), 10).load_live()
    assert snapshot is not None
    scorer = Scorer(SCHEMA, None)
    detector = Detector.restore(snapshot.description, snapshot.weights, "cpu")
    scorer.swap(LoadedModel(snapshot.version, snapshot.created_at, detector))
    return scorer


def verdicts_on(scorer: Scorer, batch: Batch) -> Verdicts:
    return scorer.score(batch, scorer.extend(batch))


def test_neither_other_keys_nor_the_cuts_of_batches_change_a_score(learned: tuple[Path, Worker]) -> None:
    batch = decoded(faulty_stream())
    scorer = scorer_of(learned[0])
    together = verdicts_on(scorer, batch).score
    for pump in (b"stuck", b"good"):
        rows = np.flatnonzero(np.array([key == pump for key in batch.keys]))
        scorer = scorer_of(learned[0])
        parts = [verdicts_on(scorer, batch.select(part)).score for part in np.split(rows, [1, 7, 250])]
        np.testing.assert_allclose(np.concatenate(parts), together[rows], rtol=1e-4)


def test_the_window_keeps_rows_as_they_were_at_arrival(learned: tuple[Path, Worker]) -> None:
    registry, worker = learned
    window = worker._learner.window.state()
    position = np.concatenate([window["inliers.position"], window["quarantine.position"]]).astype(int)
    values = np.concatenate([window["inliers.values"], window["quarantine.values"]])
    assert len(position) == 2 * ROWS
    np.testing.assert_array_equal(values, extended(training_stream())[position])
    again = Worker(in_time(registry, training__window_rows=2 * ROWS), source=MemorySource(), sink=MemorySink())
    again._learner.restore()
    for name, array in window.items():
        np.testing.assert_array_equal(array, again._learner.window.state()[name])


def test_a_model_keeps_its_context_its_window_and_a_report_on_the_features(learned: tuple[Path, Worker]) -> None:
    snapshot = ModelRegistry(str(learned[0]), 10).load_live()
    assert snapshot is not None
    assert snapshot.window is not None
    assert snapshot.context == {"window": WINDOW, "calendar": True}
    assert snapshot.window["inliers.values"].shape[1] == WIDTH
    assert list(snapshot.report["missing_share"]) == FEATURES
    assert snapshot.report["calendar"] == []


@pytest.mark.parametrize("change", [{"schema__window": 0}, {"schema__window": 8}, {"schema__calendar": False}])
def test_a_model_of_another_context_stops_the_start(learned: tuple[Path, Worker], change: dict[str, Any]) -> None:
    worker = Worker(in_time(learned[0], **change), source=MemorySource(), sink=MemorySink())
    assert worker.run() == 2
    assert "was learned with schema.window = 16 and schema.calendar = true" in worker.status()["failure"]


def test_a_file_is_scored_with_its_past_and_not_with_another_context(
    learned: tuple[Path, Worker], found: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(record or b"" for record in faulty_stream()))
    config = in_time(learned[0])
    config = Config.model_validate(
        config.dump() | {"source": {"type": "file", "path": str(tmp_path / "rows.jsonl")}, "role": "all"}
    )
    scored = score_file(config, tmp_path / "scores.jsonl", lambda what, done, of: None)
    assert scored.flagged == sum(one["is_anomaly"] for rows in found.values() for one in rows)
    config.schema_.window = 0
    with pytest.raises(SchemaMismatch, match=r"schema\.window = 16"):
        score_file(config, tmp_path / "scores.jsonl", lambda what, done, of: None)


def test_a_trainer_that_samples_still_knows_the_past_of_each_row(tmp_path: Path) -> None:
    stream = faulty_stream()
    config = in_time(tmp_path, training__sample=0.25).model_copy(update={"role": "trainer"})
    source = MemorySource()
    worker = Worker(config, source=source, sink=MemorySink())
    assert score_all(worker, source, stream) == 0
    rows = worker._learner.window.training_rows().rows
    assert 0.15 < len(rows) / len(stream) < 0.35
    assert worker.status()["rows"] == len(rows)
    whole = {row.tobytes() for row in extended(stream)}
    assert all(row.tobytes() in whole for row in rows)


def test_a_row_without_any_value_is_left_out_and_a_row_with_a_new_key_is_not(tmp_path: Path) -> None:
    nothing = orjson.dumps({"pump": "good", "ts": 1_930_000_000, "load": None})
    stream = [*records(sensors(20, 0), "good"), nothing, *records(sensors(1, 0), "new")]
    source, sink = MemorySource(), MemorySink()
    worker = Worker(in_time(tmp_path), source=source, sink=sink)
    assert score_all(worker, source, stream) == 0
    assert [json.loads(value)["status"] for value in sink.values][-2:] == ["unscored", "warming_up"]
    assert len(worker._learner.window) == 21


def test_without_a_context_rows_pass_through_untouched() -> None:
    batch = decoded(faulty_stream())
    plain = RecordSchema(FEATURES, id="id", key="pump", timestamp="ts")
    scorer = Scorer(plain, None)
    assert scorer.extend(batch) is batch.values
    assert plain.fingerprint == "8bb8b053560c50c7", "models that are there go on"


def test_what_was_before_an_outage_is_not_the_past_of_what_comes_after() -> None:
    without_calendar = RecordSchema(FEATURES, id="id", key="pump", timestamp="ts", window=WINDOW)
    stream = records(sensors(60, 0), "good") + records(sensors(60, 0), "good", late_hours=48.0)
    means = Scorer(without_calendar, None).extend(decoded(stream, without_calendar))[:, len(FEATURES)]
    assert np.isnan(means[60 : 60 + WINDOW - 1]).all()
    assert not np.isnan(means[60 + WINDOW - 1 :]).any()
    np.testing.assert_array_equal(means[60:], means[:60])


def test_a_record_without_a_time_has_no_hour() -> None:
    stream = records(sensors(2, 0), "good")
    stream.append(orjson.dumps({"pump": "good", "ts": "noon", **dict.fromkeys(FEATURES, 1.0)}))
    calendar = extended(stream)[:, -4:]
    assert np.isfinite(calendar[:2]).all()
    assert np.isnan(calendar[2]).all()


def test_hours_that_the_training_rows_do_not_span_are_reported() -> None:
    def rows(hours: float) -> Float64:
        times = np.arange(0.0, hours, 0.25) * 3600.0
        return TemporalContext(1, 2, calendar=True).extend(np.zeros((len(times), 1)), None, times)

    assert unseen_hours(rows(7 * 24)) == []
    day, week = unseen_hours(rows(6))
    assert day.startswith("the rows come from 6 of the 24 hours of a day")
    assert week.startswith("the rows come from 1 of the 7 days of a week")
    (week,) = unseen_hours(rows(3 * 24))
    assert "3 of the 7 days" in week
    (note,) = unseen_hours(np.full((5, 7), np.nan))
    assert "schema.timestamp" in note


def test_train_learns_extended_rows_and_says_what_the_calendar_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Recipe(
        autoencoder_steps=30,
        rarity_steps=30,
        vae_steps=30,
        classifier_steps=30,
        synthetic_outliers=500,
        cross_fit_below=0,
    )
    monkeypatch.setattr("stream_ad.offline.Detector", partial(Detector, recipe=tiny))
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(record or b"" for record in records(sensors(250, 0), "good")))
    config = in_time(tmp_path / "models", training__min_rows=200, training__window_rows=200)
    file = {"source": {"type": "file", "path": str(tmp_path / "rows.jsonl")}}
    config = Config.model_validate(config.dump() | file)
    trained = train_from_file(config, lambda what, done, of: None)
    assert trained.rows == 200
    assert any("days of a week" in note for note in trained.notes)
    snapshot = ModelRegistry(str(tmp_path / "models"), 10).load_live()
    assert snapshot is not None
    assert snapshot.context == SCHEMA.context
    assert snapshot.description["n_features"] == WIDTH


def test_a_calendar_for_a_file_without_times_is_warned_of(tmp_path: Path) -> None:
    data = in_time(tmp_path).dump() | {"source": {"type": "file", "path": "rows.csv"}}
    assert not any("schema.calendar" in warning for warning in warnings(Config.model_validate(data)))
    data["schema"]["timestamp"] = None
    assert any("schema.timestamp" in warning for warning in warnings(Config.model_validate(data)))


def test_a_window_of_the_row_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps(in_time(tmp_path).dump()))
    with pytest.raises(ConfigError, match=r"schema\.window.*0 for none"):
        load(tmp_path / "c.yaml", ["schema.window=1"])
