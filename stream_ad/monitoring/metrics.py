"""What Prometheus sees of a worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from stream_ad.monitoring.histogram import BatchHistogram
from stream_ad.records import NO_TIMESTAMP, Decoded, Reason, Status, Verdicts

Float64 = NDArray[np.float64]
Place = tuple[str, str]
"""Topic and partition, as labels."""

SCORE_EDGES = (
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    0.85,
    1.0,
    1.2,
    1.5,
    2.0,
    3.0,
    5.0,
    8.0,
    15.0,
    30.0,
    60.0,
    150.0,
)
LATENCY_EDGES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
STAGE_EDGES = (0.0005, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
TRAINING_EDGES = (1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 3600)
TRIGGERS = ("first", "rows", "time", "drift", "regime", "manual")
RESULTS = ("accepted", "rejected", "error", "killed", "timeout")
REGIME_ACTIONS = ("adapt", "hold")
GATE_CHECKS = ("finite", "constant", "alert_rate", "auroc", "compiled")
LABELS = (*product(("normal", "anomaly"), ("used", "unknown_record")), ("unreadable", "invalid"))
"""Labels by people and what becomes of them."""
RATIO_ROWS = 10_000
"""Rows that `stream_ad_alert_ratio` looks back on."""


class Metrics:
    """All series of one worker, in a registry of its own: two workers in one process do not clash.

    Methods are named for what happened, so that the worker's loop stays readable. Counters are there with 0 before
    their first event where their labels are known: from a series that begins at 1 Prometheus sees no increase.
    """

    def __init__(self, features: list[str], version: str, role: str = "all") -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._features = features
        self._records = Counter("stream_ad_records", "Rows and records by what became of them.", ["result"], registry=r)
        for status in Status:
            self._records.labels(status.name.lower())
        self._records.labels("tombstone"), self._records.labels("dead_letter")
        self._anomalies = Counter("stream_ad_anomalies", "Rows flagged.", registry=r)
        self._feature_anomalies = Counter(
            "stream_ad_feature_anomalies",
            "Rows flagged, by the feature with the largest share.",
            ["feature"],
            registry=r,
        )
        for name in features:
            self._feature_anomalies.labels(name)
        self._sampled = Counter("stream_ad_sampled_rows", "Rows that a trainer took from the stream.", registry=r)
        self._dead_letters = Counter("stream_ad_dead_letters", "Bad records by reason.", ["reason"], registry=r)
        for reason in (value for name, value in vars(Reason).items() if name.isupper()):
            self._dead_letters.labels(reason)
        self._bad_timestamps = Counter("stream_ad_bad_timestamps", "Rows whose time could not be read.", registry=r)
        self._score = BatchHistogram("stream_ad_score", "Scores of rows; 1.0 is the alert threshold.", SCORE_EDGES)
        self._latency = BatchHistogram(
            "stream_ad_record_latency_seconds",
            "From a row's time stamp to its score being delivered.",
            LATENCY_EDGES,
        )
        r.register(self._score)
        r.register(self._latency)
        self._alert_ratio = Gauge("stream_ad_alert_ratio", f"Share flagged of the last {RATIO_ROWS} rows.", registry=r)
        self._budget = Gauge(
            "stream_ad_false_alarm_rate",
            "The budget: the share of normal rows to be flagged, set or following from alerts.per_day.",
            registry=r,
        )
        self._stage = Histogram(
            "stream_ad_stage_seconds",
            "Time in a stage of the loop.",
            ["stage"],
            buckets=STAGE_EDGES,
            registry=r,
        )
        self._lag = Gauge("stream_ad_consumer_lag_records", "Records not read yet.", ["topic", "partition"], registry=r)
        self._lag_seconds = Gauge(
            "stream_ad_consumer_lag_seconds",
            "Age of the newest row scored, while there is lag.",
            ["topic", "partition"],
            registry=r,
        )
        self._lost = Counter("stream_ad_lost_records", "Offsets that retention took unread.", registry=r)
        self._resets = Counter("stream_ad_topic_resets", "Topics found made again.", registry=r)
        self._commit_failures = Counter("stream_ad_commit_failures", "Commits that were refused.", registry=r)
        self._rebalances = Counter("stream_ad_rebalances", "Rebalances of the consumer group.", registry=r)
        self._window = Gauge("stream_ad_window_rows", "Inliers in the window.", registry=r)
        self._trainings = Counter(
            "stream_ad_trainings",
            "Trainings by what asked for them and how they ended.",
            ["trigger", "result"],
            registry=r,
        )
        # A scorer never trains.
        for trigger, result in product(TRIGGERS, RESULTS) if role != "scorer" else ():
            self._trainings.labels(trigger, result)
        self._training_seconds = Histogram(
            "stream_ad_training_seconds", "Duration of a training.", buckets=TRAINING_EDGES, registry=r
        )
        self._training_running = Gauge("stream_ad_training_running", "1 while a training runs.", registry=r)
        self._swaps = Counter("stream_ad_model_swaps", "Times that another model took over.", registry=r)
        self._model_created_gauge = Gauge(
            "stream_ad_model_created_timestamp_seconds", "When the live model was trained; 0 without one.", registry=r
        )
        self._model_info = Gauge("stream_ad_model_info", "1 for the model that scores.", ["version"], registry=r)
        self._model_age = Gauge("stream_ad_model_age_seconds", "Time since the live model was trained.", registry=r)
        self._model_version: str | None = None
        self._model_created: float | None = None
        self._model_age.set_function(self._age)
        self._residual = Gauge(
            "stream_ad_feature_residual",
            "Mean distance of the last batch from its reconstruction, in spreads of the feature.",
            ["feature"],
            registry=r,
        )
        self._missing = Gauge(
            "stream_ad_feature_missing_ratio",
            "Share of the last batch that lacks the feature.",
            ["feature"],
            registry=r,
        )
        self._ready = Gauge("stream_ad_ready", "1 when /readyz says so.", registry=r)
        self._reloads = Counter(
            "stream_ad_config_reloads", "Changes of the configuration file seen by --watch.", ["result"], registry=r
        )
        for result in ("applied", "refused"):
            self._reloads.labels(result)
        self._last_reload = Gauge(
            "stream_ad_config_last_reload_successful", "0 after a changed configuration was refused.", registry=r
        )
        self._last_reload.set(1)
        build = Gauge(
            "stream_ad_build_info", "Version of stream_ad and the worker's role.", ["version", "role"], registry=r
        )
        build.labels(version, role).set(1)
        self._add_learning_loop(role)
        self._add_episodes()
        self._source_totals = (0, 0, 0, 0)
        self._newest: dict[Place, float] = {}
        self._shown: dict[Gauge, set[Place]] = {self._lag: set(), self._lag_seconds: set()}
        self._recent: deque[tuple[int, int]] = deque()
        self._recent_scored = self._recent_flagged = 0

    def _add_learning_loop(self, role: str) -> None:
        r = self.registry
        self._drifts = Counter(
            "stream_ad_drift", "Drifts found, by what has drifted.", ["signal", "feature"], registry=r
        )
        self._regime_change = Gauge(
            "stream_ad_regime_change", "1 from when a regime change is found until a model fits again.", registry=r
        )
        self._regime_changes = Counter(
            "stream_ad_regime_changes", "Regime changes found, by what was done.", ["action"], registry=r
        )
        self._quarantine = Gauge("stream_ad_quarantine_rows", "Flagged rows that are kept aside.", registry=r)
        self._gate_refusals = Counter(
            "stream_ad_gate_refusals", "Checks of the gate that a new model failed.", ["check"], registry=r
        )
        self._rollbacks = Counter("stream_ad_rollbacks", "Times that the worker rolled a model back.", registry=r)
        self._reference_distance = Gauge(
            "stream_ad_reference_distance",
            "Share of rows that the reference model flags and the live one finds normal, in budgets; 0 without one.",
            registry=r,
        )
        self._adapted_budget = Gauge(
            "stream_ad_adapted_false_alarm_rate",
            "The level that the threshold stands at now; 0 without a model.",
            registry=r,
        )
        self._labels_taken = Counter(
            "stream_ad_labels", "Labels that people gave, by what became of them.", ["label", "result"], registry=r
        )
        if role == "scorer":  # It never learns.
            return
        for signal, feature in [("score", ""), ("flagged", ""), *(("residual", name) for name in self._features)]:
            self._drifts.labels(signal, feature)
        for action in REGIME_ACTIONS:
            self._regime_changes.labels(action)
        for check in GATE_CHECKS:
            self._gate_refusals.labels(check)
        for label, result in LABELS:
            self._labels_taken.labels(label, result)

    def _add_episodes(self) -> None:
        r = self.registry
        self._episodes = Counter("stream_ad_episodes", "Episodes of flagged rows that have begun.", registry=r)
        self._open_episodes = Gauge("stream_ad_open_episodes", "Episodes that have not ended.", registry=r)
        self._longest_episode = Gauge(
            "stream_ad_longest_open_episode_seconds",
            "How long the longest of the open episodes has lasted, by the worker's clock; 0 without one.",
            registry=r,
        )
        self._suppressed = Counter(
            "stream_ad_alerts_suppressed", "Flagged rows and episodes kept from the sink by cooldown.", registry=r
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stage.labels(name).observe(time.perf_counter() - started)

    def observe_batch(self, decoded: Decoded, verdicts: Verdicts, now: float) -> None:
        """Count a batch that is delivered; `now` in seconds since the epoch."""
        batch = decoded.batch
        for status in Status:
            self._records.labels(status.name.lower()).inc(int((verdicts.status == status).sum()))
        self._records.labels("tombstone").inc(decoded.tombstones)
        self._records.labels("dead_letter").inc(len(decoded.bad))
        for bad in decoded.bad:
            self._dead_letters.labels(bad.reason).inc()
        self._bad_timestamps.inc(decoded.bad_timestamps)
        self._anomalies.inc(len(verdicts.flagged))
        if len(verdicts.flagged):
            top, count = np.unique(verdicts.attribution.argmax(axis=1), return_counts=True)
            for feature, rows in zip(top.tolist(), count.tolist(), strict=True):
                self._feature_anomalies.labels(self._features[feature]).inc(rows)
        scored = verdicts.status == Status.SCORED
        self._score.observe(verdicts.score[scored])
        stamped = batch.timestamps != NO_TIMESTAMP
        # A clock that is ahead of ours makes no latency, rather than a negative one.
        self._latency.observe(np.maximum(0.0, now - batch.timestamps[stamped] / 1000.0))
        self._count_alerts(int(scored.sum()), len(verdicts.flagged))
        if len(batch):
            for name, share in zip(self._features, np.isnan(batch.values).mean(axis=0).tolist(), strict=True):
                self._missing.labels(name).set(share)
            self._note_newest(decoded)

    def observe_sample(self, rows: int) -> None:
        """Count rows that were read to learn from them only: other workers deliver their scores."""
        self._sampled.inc(rows)

    def set_feature_residuals(self, residual: Float64) -> None:
        """residual [n_features]: mean distance from the reconstruction, in spreads."""
        for name, value in zip(self._features, residual.tolist(), strict=True):
            self._residual.labels(name).set(value)

    def set_lag(self, lag: list[tuple[str, int, int]], now: float) -> None:
        """Topic, partition and records of each partition assigned now; series of the others disappear."""
        behind = {(topic, str(partition)): records for topic, partition, records in lag}
        self._newest = {place: stamp for place, stamp in self._newest.items() if place in behind}
        ages = {p: max(0.0, now - stamp) if behind[p] else 0.0 for p, stamp in self._newest.items()}
        self._show_only(self._lag, behind)
        self._show_only(self._lag_seconds, ages)

    def set_source_counters(self, lost: int, resets: int, commit_failures: int, rebalances: int) -> None:
        """Totals since the source was opened."""
        totals = (lost, resets, commit_failures, rebalances)
        counters = (self._lost, self._resets, self._commit_failures, self._rebalances)
        for counter, total, before in zip(counters, totals, self._source_totals, strict=True):
            counter.inc(max(0, total - before))
        self._source_totals = totals

    def set_window_rows(self, rows: int) -> None:
        self._window.set(rows)

    def set_ready(self, ready: bool) -> None:
        self._ready.set(ready)

    def set_false_alarm_rate(self, rate: float) -> None:
        self._budget.set(rate)

    def set_training_running(self, running: bool) -> None:
        self._training_running.set(running)

    def config_reloaded(self, result: str) -> None:
        """`result` is applied or refused."""
        self._reloads.labels(result).inc()
        self._last_reload.set(result == "applied")

    def model_swapped(self, version: str, created_at: float) -> None:
        """Another model scores from now on; `created_at` in seconds since the epoch."""
        # The same one comes back when only its budget was changed.
        self._swaps.inc(version != self._model_version)
        self._model_created_gauge.set(created_at)
        self._model_info.labels(version).set(1)
        if self._model_version not in (None, version):
            self._model_info.remove(self._model_version)
        self._model_version = version
        self._model_created = created_at

    def training_finished(self, trigger: str, result: str, seconds: float) -> None:
        """`trigger` is one of `TRIGGERS`, `result` one of `RESULTS`."""
        self._trainings.labels(trigger, result).inc()
        self._training_seconds.observe(seconds)

    def drift_found(self, signal: str, feature: str = "") -> None:
        """`signal` is score, flagged or residual; `feature` is named for a residual only."""
        self._drifts.labels(signal, feature).inc()

    def set_regime_change(self, lasting: bool) -> None:
        self._regime_change.set(lasting)

    def regime_changed(self, action: str) -> None:
        """`action` is one of `REGIME_ACTIONS`."""
        self._regime_changes.labels(action).inc()

    def set_quarantine_rows(self, rows: int) -> None:
        self._quarantine.set(rows)

    def gate_refused(self, check: str) -> None:
        """A new model failed a check, one of `GATE_CHECKS`."""
        self._gate_refusals.labels(check).inc()

    def rolled_back(self) -> None:
        """The worker itself put the previous model back."""
        self._rollbacks.inc()

    def set_reference_distance(self, distance: float) -> None:
        """In budgets: 1 is what a model that has not moved would show."""
        self._reference_distance.set(distance)

    def set_adapted_false_alarm_rate(self, rate: float) -> None:
        self._adapted_budget.set(rate)

    def episodes_observed(self, started: int, open: int, suppressed: int, longest_seconds: float) -> None:
        """Episodes begun and alerts kept back since the last call; how many episodes are open now, and how long the
        longest of these has lasted."""
        self._episodes.inc(started)
        self._open_episodes.set(open)
        self._longest_episode.set(longest_seconds)
        self._suppressed.inc(suppressed)

    def label_taken(self, label: str, result: str) -> None:
        """`label` and `result` are one of `LABELS`."""
        self._labels_taken.labels(label, result).inc()

    def _show_only(self, gauge: Gauge, values: Mapping[Place, float]) -> None:
        """Set these series and take the others away; at no moment is one of these missing from a scrape."""
        for place, value in values.items():
            gauge.labels(*place).set(value)
        for gone in self._shown[gauge] - values.keys():
            gauge.remove(*gone)
        self._shown[gauge] = set(values)

    def _age(self) -> float:
        return 0.0 if self._model_created is None else max(0.0, time.time() - self._model_created)

    def _count_alerts(self, scored: int, flagged: int) -> None:
        if not scored:
            return
        self._recent.append((scored, flagged))
        self._recent_scored += scored
        self._recent_flagged += flagged
        while self._recent_scored - self._recent[0][0] >= RATIO_ROWS:
            oldest_scored, oldest_flagged = self._recent.popleft()
            self._recent_scored -= oldest_scored
            self._recent_flagged -= oldest_flagged
        self._alert_ratio.set(self._recent_flagged / self._recent_scored)

    def _note_newest(self, decoded: Decoded) -> None:
        """Remember the newest time stamp of each partition, for the lag in seconds."""
        batch, raw = decoded.batch, decoded.batch.raw
        partition = raw.partitions[batch.record]
        stamped = batch.timestamps != NO_TIMESTAMP
        topics = set(raw.topics)
        for topic in topics:
            mine = stamped
            if len(topics) > 1:
                mine = stamped & np.array([name == topic for name in raw.topics])[batch.record]
            for number in np.unique(partition[mine]).tolist():
                newest = batch.timestamps[mine & (partition == number)].max()
                self._newest[(topic, str(number))] = float(newest) / 1000.0
