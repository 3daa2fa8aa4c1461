"""Training and scoring in one go, without a running worker: from a file, or from what a topic holds now."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stream_ad.config import Config, FileSink, FileSource, KafkaSource
from stream_ad.detector import Detector, TrainingError
from stream_ad.detector.temporal import TemporalContext
from stream_ad.episodes import Alerts
from stream_ad.learning import InlierWindow, LoadedModel, burst_left_out, findings
from stream_ad.records import Decoded, RecordSchema, dead_letters, encode, make_decoder
from stream_ad.registry import ModelRegistry, RegistryError, Snapshot, require_schema
from stream_ad.scoring import Scorer
from stream_ad.transports import ConfigurationError, Source, make_sink, make_source

ProgressReport = Callable[[str, int, int | None], None]
"""Called with what is going on, how much is done, and of how much (None: not known)."""

MOST_MESSAGES = 20
IDLE_POLLS = 10


@dataclass(slots=True)
class Trained:
    """What `train` did."""

    version: str
    rows: int
    bad_records: int
    first_bad: str
    notes: list[str]


@dataclass(slots=True)
class Scored:
    """What `score` did."""

    rows: int = 0
    flagged: int = 0
    bad_records: int = 0
    bad_timestamps: int = 0
    """Rows whose time could not be read."""
    messages: list[str] = field(default_factory=list)
    """The first bad records, a line each."""

    def note(self, decoded: Decoded) -> None:
        self.bad_records += len(decoded.bad)
        self.bad_timestamps += decoded.bad_timestamps
        for one in decoded.bad[: MOST_MESSAGES - len(self.messages)]:
            place = int(decoded.batch.raw.offsets[one.record])
            self.messages.append(f"bad record in row {place}: {one.message}")


def train(config: Config, progress: ProgressReport) -> Trained:
    """Learn from the rows of the source, as the worker's window would have kept them, and make the model live.

    Raises `TrainingError` for too few rows, `TransportError` for a source that cannot be read.
    """
    schema = RecordSchema(**config.schema_.model_dump())
    registry = ModelRegistry(config.registry.path, config.registry.keep)
    registry.check_writable()
    scorer = Scorer(schema, None)
    width = TemporalContext(len(schema.features), **schema.context).width
    window = InlierWindow(config.training.window_rows, width, config.alerts.rate())
    bad, first_bad = 0, ""
    for decoded in read(config, schema):
        learnable = scorer.learnable(decoded.batch)
        rows = scorer.extend(decoded.batch)[learnable]
        window.add(rows, np.full(len(rows), np.nan), decoded.batch.sequences()[learnable])
        bad += len(decoded.bad)
        first_bad = first_bad or (decoded.bad[0].message if decoded.bad else "")
        progress("reading", window.seen, None)
    if window.seen < config.training.min_rows:
        raise TrainingError(
            f"{window.seen} usable rows, but training.min_rows = {config.training.min_rows} are needed: "
            "give more rows, or lower training.min_rows (50 at least)"
            + (f"; {bad} records could not be read, the first: {first_bad}" if bad else "")
        )
    training = window.training_rows()
    started = time.time()
    detector = training.teach(
        Detector(config.alerts.rate(), config.detector.device, config.detector.seed),
        features=len(schema.features),
        past=schema.context["window"],
        progress=lambda share: progress("learning", int(1000 * share), 1000),
    )
    features, x = list(schema.features), training.rows
    found = findings(x, features, detector.unknown, schema.context, (x, training.sequence))
    notes = [note for of_kind in found.values() for note in of_kind] + burst_left_out(detector.left_out)
    version = registry.save(
        Snapshot(
            version="",
            weights=detector.tensors(),
            description=detector.description(),
            schema_fingerprint=schema.fingerprint,
            features=features,
            report={
                "trigger": "command",
                "rows": len(x),
                "seconds": time.time() - started,
                **detector.report(),
                "notes": notes,
            },
            verdict={"accepted": True, "reasons": []},
            created_at=time.time(),
            window=None,
            context=schema.context,
        )
    )
    registry.set_live(version)
    return Trained(version, len(x), bad, first_bad, notes)


def score(config: Config, output: Path, progress: ProgressReport) -> Scored:
    """Score all rows of the source with the live model into a JSON Lines file.

    Raises `RegistryError` if there is no model or one of another schema, `TransportError` for a source that cannot be
    read, or of which no record can.
    """
    schema = RecordSchema(**config.schema_.model_dump())
    registry = ModelRegistry(config.registry.path, config.registry.keep)
    snapshot = registry.load_live()
    if snapshot is None:
        raise RegistryError(f"no model in {config.registry.path}: train one first with stream-ad train --input FILE")
    require_schema(snapshot, schema)
    detector = Detector.restore(snapshot.description, snapshot.weights, config.detector.device)
    detector.set_false_alarm_rate(config.alerts.rate())
    scorer = Scorer(schema, None)
    scorer.swap(LoadedModel(snapshot.version, snapshot.created_at, detector))
    sink = make_sink(config.model_copy(update={"sink": FileSink(type="file", path=str(output))}))
    sink.open()
    alerts = Alerts(config.alerts.emit, config.alerts.cooldown, schema)
    done = Scored()
    try:
        for decoded in read(config, schema):
            verdicts = scorer.score(decoded.batch, scorer.extend(decoded.batch))
            outputs = encode(decoded.batch, verdicts, schema)
            sink.write(decoded.batch.keys, outputs)
            sink.write_alerts(*alerts.of(decoded.batch, verdicts, outputs, time.time()))
            if decoded.bad:
                sink.write_dead_letters(dead_letters(decoded))
            done.rows += len(decoded.batch)
            done.flagged += len(verdicts.flagged)
            done.note(decoded)
            progress("scoring", done.rows, None)
        sink.write_alerts(*alerts.at_end("end_of_source"))
        sink.flush()
    finally:
        sink.close()
    if done.bad_records and not done.rows:
        raise ConfigurationError(f"none of {done.bad_records} records could be read: {done.messages[0]}")
    return done


def read(config: Config, schema: RecordSchema) -> Iterator[Decoded]:
    """Decoded batches from the source up to its present end; nothing is committed."""
    if isinstance(config.source, KafkaSource):
        # A group of its own: the worker's group keeps its partitions and its offsets.
        alone = config.source.model_copy(update={"group": f"{config.source.group}-{uuid.uuid4()}", "start": "earliest"})
        config = config.model_copy(update={"source": alone})
    source = make_source(config, schema)
    decoder = make_decoder(schema.as_json() if isinstance(config.source, FileSource) else schema)
    source.open()
    try:
        idle = 0
        while not source.exhausted and not (idle > IDLE_POLLS and at_end(source)):
            raw = source.poll(0.5)
            idle = 0 if len(raw) else idle + 1
            if len(raw):
                yield decoder.decode(raw)
    finally:
        source.close()


def at_end(source: Source) -> bool:
    """Whether a topic holds nothing more for now."""
    lag = source.statistics().lag
    if not lag:
        raise ConfigurationError("the brokers assigned no partition of source.topics within five seconds")
    return all(partition.records == 0 for partition in lag)
