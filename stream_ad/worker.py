"""The worker: one loop that polls, decodes, scores, emits and commits, and never waits for training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ad import __version__
from stream_ad.config import Config, ConfigError, ConfigWatcher, FileSource
from stream_ad.detector import choose_device
from stream_ad.episodes import Alerts, Records
from stream_ad.learning import (
    RECENT_ROWS,
    ColdStart,
    FollowOnly,
    Learner,
    LearningSettings,
    LoadedModel,
    Outcome,
    read_labels,
    threads_each,
)
from stream_ad.monitoring import Metrics, MonitoringServer, OncePerMinute
from stream_ad.records import (
    Batch,
    Decoded,
    EndedBy,
    FieldDrift,
    RawBatch,
    RecordSchema,
    Status,
    Verdicts,
    dead_letters,
    encode,
    make_decoder,
)
from stream_ad.registry import ModelRegistry, RegistryError, RegistryUnavailable
from stream_ad.row_rate import RowRate
from stream_ad.scoring import Scorer
from stream_ad.transports import (
    ConfigurationError,
    DeliveryError,
    PartitionLag,
    Sink,
    Source,
    StoppedEarly,
    TransportError,
    connect,
    make_label_source,
    make_sink,
    make_source,
)

log = logging.getLogger("stream_ad.worker")

Float64 = NDArray[np.float64]

POLL_SECONDS = 0.2
STATISTICS_SECONDS = 1.0
MUCH = 1.25
"""The budget is set anew where the rate of the rows asks for one that differs by this factor."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_MISCONFIGURED = 2


class Worker:
    """Reads records, scores them, writes scores and anomalies, learns beside it.

    By its role it does all of that, or all but learning (scorer), or all but writing (trainer). `source` and
    `sink` are made from the configuration unless given; a `watcher` brings changes of it. `run` blocks until the
    source is exhausted or `stop` is called (from any thread) and returns the exit code of the process: 0 done,
    1 failed (records that were not committed will be read again), 2 wrong configuration.
    """

    def __init__(
        self,
        config: Config,
        *,
        source: Source | None = None,
        sink: Sink | None = None,
        watcher: ConfigWatcher | None = None,
    ) -> None:
        self.config = config
        self.schema = RecordSchema(**config.schema_.model_dump())
        self.registry = ModelRegistry(config.registry.path, config.registry.keep)
        self.metrics = Metrics(list(self.schema.features), __version__, config.role)
        self._row_rate = RowRate()
        self._false_alarm_rate = config.alerts.rate()
        self.metrics.set_false_alarm_rate(self._false_alarm_rate)
        self._source = source
        self._sink = sink
        self._labels = make_label_source(config, self.schema)
        self._watcher = watcher
        self._stopping = threading.Event()
        self._connected = False
        self._failure: str | None = None
        self._threads = threads_each(config.detector.threads)
        self._decoder = make_decoder(self.schema.as_json() if isinstance(config.source, FileSource) else self.schema)
        self._field_drift = FieldDrift(self.schema, self._decoder)
        self._once_per_minute = OncePerMinute()
        cold = config.training.cold_start == "half_space_trees" and config.role != "trainer"
        self._scorer = Scorer(self.schema, ColdStart(config.detector.seed) if cold else None, adapts=True)
        kind = FollowOnly if config.role == "scorer" else Learner
        self._learner: Learner | FollowOnly = kind(self._learning_settings(), self.registry)
        self._alerts = Alerts(config.alerts.emit, config.alerts.cooldown, self.schema)
        self._sampling = np.random.default_rng(config.detector.seed)
        self._next_statistics = 0.0
        self._counts = {
            "rows": 0,
            "records": 0,
            "anomalies": 0,
            "dead_letters": 0,
            "trainings": 0,
            "swaps": 0,
            "rejected": 0,
            "drifts": 0,
            "rollbacks": 0,
        }
        self._started = time.monotonic()
        self._lag = 0
        self._missing_topics: list[str] = []
        self.server = MonitoringServer(
            self.metrics,
            self.not_ready,
            self.status,
            host=config.monitoring.host,
            port=config.monitoring.port,
        )

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Work until the source ends or `stop` is called; return the exit code.

        `on_ready` is called once, when everything is loaded and connected, before the first record.
        """
        try:
            self._prepare_computing()
            if self.config.role != "scorer":
                self.registry.check_writable()
            self.server.start()
            started = {"monitoring_port": self.server.port, "threads": self._threads, "role": self.config.role}
            log.info("monitoring", extra=started)
            model = self._learner.restore()
            if model is not None:
                self._swap(model)
            source, sink = self._connect()
        except RegistryUnavailable as error:
            return self._fail(EXIT_FAILED, error)
        except (ConfigurationError, RegistryError) as error:
            return self._fail(EXIT_MISCONFIGURED, error)
        except (TransportError, OSError) as error:
            return self._fail(EXIT_FAILED, error)
        try:
            on_ready()
            while not self._stopping.is_set() and not source.exhausted:
                self._work(source, sink)
            log.info("stopping" if self._stopping.is_set() else "the source is read to its end")
            if sink is not None:
                self._alerts.forget(source.statistics().revoked)
                why: EndedBy = "shutdown" if self._stopping.is_set() else "end_of_source"
                self._emit_alerts(self._alerts.at_end(why), sink)
            return EXIT_OK
        except ConfigurationError as error:
            return self._fail(EXIT_MISCONFIGURED, error)
        except TransportError as error:
            return self._fail(EXIT_FAILED, error)
        except Exception as error:  # a log line with its traceback, and a restart, beat a bare one
            log.exception("unexpected")
            return self._fail(EXIT_FAILED, error)
        finally:
            self._close(source, sink)

    def stop(self) -> None:
        """Finish the batch in hand, commit it, keep the window and end. Returns at once.

        Should an output still not be acknowledged after `shutdown_timeout`, the process ends all the same:
        its input is not committed and will be read again.
        """
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def abandon(self) -> None:
        """Keep the window and leave, whatever is still on its way: for when stopping takes too long."""
        log.error("not stopped within shutdown_timeout: what is not acknowledged is not committed either")
        self._learner.close()

    def request_training(self) -> None:
        """Train now, whatever the triggers say."""
        self._learner.request("manual")

    def _work(self, source: Source, sink: Sink | None) -> None:
        """One turn: a batch from poll to commit, then a step of learning."""
        with self.metrics.stage("poll"):
            raw = self._poll(source)
        if len(raw):
            self._process(raw, sink)
        elif sink is not None:
            self._emit_alerts(self._alerts.of_silence(time.time()), sink)
        with self.metrics.stage("commit"):
            source.commit()
        with self.metrics.stage("learn"):
            self._learn()
        self._look_around(source)

    def _poll(self, source: Source) -> RawBatch:
        """The next records; of these a trainer takes a sample, if it needs no others.

        A file waits for the first model: it would be at its end before that is trained, and all of it unscored.
        """
        if self._scorer.model is None and self._learner.model_coming and ends_by_itself(self.config):
            self._stopping.wait(POLL_SECONDS)
            return RawBatch.empty()
        raw = source.poll(POLL_SECONDS)
        return raw if not self._samples or self._scorer.has_context else raw.select(self._sample(len(raw)))

    @property
    def _samples(self) -> bool:
        return self.config.role == "trainer" and self.config.training.sample < 1.0

    def _sample(self, n: int) -> NDArray[np.int64]:
        """Numbers of those of n records or rows that a trainer looks at."""
        return np.flatnonzero(self._sampling.random(n) < self.config.training.sample)

    def _process(self, raw: RawBatch, sink: Sink | None) -> None:
        """Decode, score and emit one batch; returns when all its outputs are acknowledged.

        A trainer has no sink: it scores to pick the inliers, and what it reads is others' to deliver.
        """
        with self.metrics.stage("decode"):
            decoded = self._decoder.decode(raw)
        with self.metrics.stage("score"):
            extended = self._scorer.extend(decoded.batch)
            if self._samples and self._scorer.has_context:
                # Only now: rows that are left out are still the past of those that are taken.
                taken = self._sample(len(decoded.batch))
                decoded.batch, extended = decoded.batch.select(taken), extended[taken]
            verdicts = self._scorer.score(decoded.batch, extended)
        if sink is not None:
            with self.metrics.stage("emit"):
                self._emit(decoded, verdicts, sink)
            self._tell(decoded, verdicts)
        else:
            self.metrics.observe_sample(len(decoded.batch))
        self._counts["rows"] += len(decoded.batch)
        self._counts["records"] += len(raw)
        self._offer(decoded.batch, extended, verdicts)

    def _emit(self, decoded: Decoded, verdicts: Verdicts, sink: Sink) -> None:
        outputs = encode(decoded.batch, verdicts, self.schema)
        sink.write(decoded.batch.keys, outputs)
        if decoded.bad:
            sink.write_dead_letters(dead_letters(decoded))
        self._emit_alerts(self._alerts.of(decoded.batch, verdicts, outputs, time.time()), sink)

    def _emit_alerts(self, alerts: Records, sink: Sink) -> None:
        """Send alerts, and wait until they and all that was sent before are acknowledged."""
        sink.write_alerts(*alerts)
        sink.flush()
        self.metrics.episodes_observed(*self._alerts.news(), self._alerts.longest_open())

    def _tell(self, decoded: Decoded, verdicts: Verdicts) -> None:
        """Count a batch that is delivered, and tell of what is wrong in it."""
        self._field_drift.observe(decoded.batch)
        for bad in decoded.bad:
            message = f"record goes to the dead letters: {bad.message}"
            self._once_per_minute.log(log, logging.WARNING, bad.reason, message)
        self.metrics.observe_batch(decoded, verdicts, time.time())
        self.metrics.set_feature_residuals(self._scorer.residual)
        self._counts["anomalies"] += len(verdicts.flagged)
        self._counts["dead_letters"] += len(decoded.bad)

    def _offer(self, batch: Batch, extended: Float64, verdicts: Verdicts) -> None:
        """Offer what was scored to the learner, as it was scored: later no row has a past any more."""
        learnable = self._scorer.learnable(batch)
        # The cold start's scores are not calibrated: to the window they are no scores at all.
        score = np.where(verdicts.status == Status.SCORED, verdicts.score, np.nan)
        changes = self._learner.observe(
            extended[learnable],
            score[learnable],
            self._scorer.distance[learnable],
            self._scorer.sequence[learnable],
            self._scorer.stretch,
        )
        self._learner.remember(batch, np.flatnonzero(learnable), extended[learnable], score[learnable])
        self._counts["drifts"] += len(changes.drifts)
        for drift in changes.drifts:
            self.metrics.drift_found(drift.signal, drift.feature)
        if changes.regime is not None:
            self.metrics.regime_changed(changes.regime)

    def _take_labels(self) -> None:
        """Put new labels into effect; those that are of no use are counted and told of."""
        raw = RawBatch.empty() if self._labels is None else self._labels.poll(0.0)
        if not len(raw):
            return
        labels, wrong = read_labels(raw)
        for message in wrong:
            self.metrics.label_taken("unreadable", "invalid")
            self._once_per_minute.log(log, logging.WARNING, "label invalid", f"label is not used: {message}")
        for label, used in zip(labels, self._learner.take_labels(labels), strict=True):
            self.metrics.label_taken(label.kind, "used" if used else "unknown_record")
            if not used:
                message = (
                    f"label is not used: {label} is none of the last {RECENT_ROWS} flagged rows, nor of as many "
                    "others, that this worker could learn from; label rows sooner, and name them as output records do"
                )
                self._once_per_minute.log(log, logging.WARNING, "label unknown", message)

    def _learn(self) -> None:
        outcome, model = self._learner.step()
        if outcome is not None:
            self._report(outcome)
        if self._learner.rollbacks > self._counts["rollbacks"]:
            self._counts["rollbacks"] += 1
            self.metrics.rolled_back()
        if model is not None:
            self._swap(model)

    def _swap(self, model: LoadedModel) -> None:
        before = self._scorer.model
        if before is None or before.version != model.version:
            self._counts["swaps"] += before is not None or self._counts["rows"] > 0
        self._scorer.swap(model)
        self.metrics.model_swapped(model.version, model.created_at)
        log.info("a model is live", extra={"version": model.version})

    def _report(self, outcome: Outcome) -> None:
        self._counts["trainings"] += 1
        self._counts["rejected"] += outcome.result == "rejected"
        self.metrics.training_finished(outcome.trigger, outcome.result, outcome.seconds)
        for check in outcome.refused_by:
            self.metrics.gate_refused(check)
        if outcome.judged:
            self.metrics.set_reference_distance(outcome.reference_distance or 0.0)
        for note in outcome.notes:
            log.warning("%s", note)
        level = logging.INFO if outcome.result == "accepted" else logging.ERROR
        details = {
            "trigger": outcome.trigger,
            "seconds": round(outcome.seconds, 1),
            "version": outcome.version,
        }
        message = f": {outcome.message}" if outcome.message else ""
        log.log(level, "training %s%s", outcome.result, message, extra=details)

    def _look_around(self, source: Source) -> None:
        """Once a second: the configuration, lag, and the other things that only the source knows."""
        now = time.monotonic()
        if now < self._next_statistics:
            return
        self._next_statistics = now + STATISTICS_SECONDS
        self._reload()
        self._take_labels()
        statistics = source.statistics()
        self._lag = sum(partition.records for partition in statistics.lag)
        self._measure_rate(now, statistics.lag)
        self._missing_topics = statistics.missing_topics
        self._alerts.forget(statistics.revoked)
        if self.config.role != "trainer":  # which passes over a backlog: its lag says nothing
            lag = [(one.topic, one.partition, one.records) for one in statistics.lag]
            self.metrics.set_lag(lag, time.time())
        self.metrics.set_source_counters(
            statistics.lost_records, statistics.resets, statistics.commit_failures, statistics.rebalances
        )
        if self._scorer.level is not None:
            self.metrics.set_adapted_false_alarm_rate(self._scorer.level.rate)
        self.metrics.set_window_rows(self._learner.window_rows)
        self.metrics.set_quarantine_rows(self._learner.quarantine_rows)
        self.metrics.set_regime_change(self._learner.regime_change)
        self.metrics.set_training_running(self._learner.training)

    def _measure_rate(self, now: float, lag: list[PartitionLag]) -> None:
        """With `alerts.per_day` the budget follows the rate at which rows arrive, once it is off by much."""
        share = self.config.training.sample if self._samples else 1.0
        self._row_rate.observe(
            now,
            self._counts["rows"] / share,
            self._counts["records"] / (1.0 if self._scorer.has_context else share),
            {(one.topic, one.partition): one.records for one in lag},
        )
        rate = self.config.alerts.rate(self._row_rate.per_second)
        if max(rate, self._false_alarm_rate) > MUCH * min(rate, self._false_alarm_rate):
            self._apply_budget(rate)
            log.info("the budget follows the rate of the rows", extra={"false_alarm_rate": rate})

    def _apply_budget(self, rate: float) -> None:
        self._false_alarm_rate = rate
        self._learner.apply(self._learning_settings())
        self.metrics.set_false_alarm_rate(rate)

    def _reload(self) -> None:
        """Take up a changed configuration file; one that cannot be used changes nothing."""
        if self._watcher is None:
            return
        try:
            changed = self._watcher.look()
        except ConfigError as error:
            log.error("the changed configuration is refused, the one before still holds: %s", error)
            self.metrics.config_reloaded("refused")
            return
        if changed is None:
            return
        self.config = self._watcher.config
        self._apply_budget(self.config.alerts.rate(self._row_rate.per_second))
        self._alerts.cooldown.seconds = self.config.alerts.cooldown
        logging.getLogger().setLevel(self.config.monitoring.log_level.upper())
        self.metrics.config_reloaded("applied")
        log.info("the changed configuration holds", extra={"changed": changed})

    def _connect(self) -> tuple[Source, Sink | None]:
        """Make and open source, sink and labels; the brokers may be missing until `source.connect_timeout` is over."""
        source = self._source or make_source(self.config, self.schema)
        sink = None if self.config.role == "trainer" else self._sink or make_sink(self.config)
        ends = [end for end in (source, sink, self._labels) if end is not None]
        connect(ends, getattr(self.config.source, "connect_timeout", 0.0), self._stopping)
        self._connected = True
        log.info("connected")
        return source, sink

    def _close(self, source: Source, sink: Sink | None) -> None:
        self._connected = False
        self._learner.close()
        if sink is not None:
            sink.close()
        if self._labels is not None:
            self._labels.close()
        source.close()
        self._learner.wait()
        self.server.close()

    def _fail(self, code: int, error: Exception) -> int:
        if isinstance(error, StoppedEarly):
            log.info("%s", error)
            code = EXIT_OK
        else:
            again = "; nothing of this batch is committed, it will be read again"
            log.error("%s%s", error, again if isinstance(error, DeliveryError) else "")
            self._failure = str(error)
        self.server.close()
        return code

    def not_ready(self) -> list[str]:
        """Why this worker is not ready; empty when it is."""
        reasons = []
        if not self._connected:
            reasons.append("source and sink are not connected")
        if self._missing_topics:
            reasons.append(f"topics that are gone: {', '.join(self._missing_topics)}")
        if not self._scorer.ready and self.config.role == "scorer":
            reasons.append(f"no model yet: a trainer publishes the first one in {self.registry.path}")
        elif not self._scorer.ready and self.config.role == "all":
            rows, needed = self._learner.window_rows, self.config.training.min_rows
            reasons.append(f"no model yet: {rows} of {needed} rows for the first training")
        return reasons

    def status(self) -> dict[str, Any]:
        """What the worker is doing, as plain data; may be called from any thread."""
        model = self._scorer.model
        reasons = self.not_ready()
        return {
            "role": self.config.role,
            **self._counts,
            "rate": round(self._counts["rows"] / max(1e-9, time.monotonic() - self._started), 1),
            "model": None if model is None else model.version,
            "training": self._learner.training,
            "regime_change": self._learner.regime_change,
            "window_rows": self._learner.window_rows,
            "lag": self._lag,
            "ready": not reasons,
            "reasons": reasons,
            "failure": self._failure,
            "threads": self._threads,
        }

    def _prepare_computing(self) -> None:
        """Take the scorer's share of the cores, and see that the device is there."""
        torch.set_num_threads(self._threads)
        try:
            choose_device(self.config.detector.device)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error

    def _learning_settings(self) -> LearningSettings:
        training, detector = self.config.training, self.config.detector
        return LearningSettings(
            schema=self.schema,
            false_alarm_rate=self._false_alarm_rate,
            min_rows=training.min_rows,
            window_rows=training.window_rows,
            every_rows=training.every_rows,
            every_seconds=training.every_seconds,
            min_interval_seconds=training.min_interval_seconds,
            timeout_seconds=training.timeout_seconds,
            drift=training.drift,
            on_regime_change=training.on_regime_change,
            reference=training.reference,
            rollback_after=training.rollback_after,
            device=detector.device,
            seed=detector.seed,
            threads=self._threads,
            labels=training.labels is not None,
        )


def ends_by_itself(config: Config) -> bool:
    """Whether the source is a file that is read once."""
    return isinstance(config.source, FileSource) and not config.source.follow
