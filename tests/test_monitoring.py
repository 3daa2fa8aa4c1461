"""Metrics that can answer, health that tells the truth, logs that both people and machines can read."""

from __future__ import annotations

import io
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from stream_ad.monitoring import Metrics, MonitoringServer, OncePerMinute, configure_logs
from stream_ad.monitoring.histogram import BatchHistogram
from stream_ad.monitoring.metrics import SCORE_EDGES
from stream_ad.records import NO_TIMESTAMP, Decoded, RawBatch, RecordSchema, Verdicts, make_decoder

NOW = 1_930_381_200.0


def a_batch(scores: list[float], stamps: list[int] | None = None) -> tuple[Decoded, Verdicts]:
    n = len(scores)
    values: list[bytes | None] = [b'{"a": 1}'] * n
    times = np.array(stamps if stamps is not None else [NO_TIMESTAMP] * n, np.int64)
    raw = RawBatch(values, [None] * n, [()] * n, times, ["t"] * n, np.full(n, 2, np.int32), np.arange(n))
    score = np.array(scores)
    flagged = np.flatnonzero(score >= 1.0)
    verdicts = Verdicts(
        status=np.where(np.isnan(score), 2, 0).astype(np.uint8),
        score=score,
        p_value=score,
        is_anomaly=score >= 1.0,
        flagged=flagged,
        expected=np.zeros((len(flagged), 2)),
        attribution=np.zeros((len(flagged), 2)),
        imputed=np.zeros(n, np.bool_),
        model="m",
    )
    return make_decoder(RecordSchema(("a", "b"))).decode(raw), verdicts


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["a", "b"], "0.0")


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MonitoringServer]:
    server = MonitoringServer(metrics, lambda: ["no model yet"], lambda: {"rows": 3}, "127.0.0.1", 0)
    server.start()
    yield server
    server.close()


def get(server: MonitoringServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def series(server: MonitoringServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(get(server, "/metrics")[1]):
        for sample in family.samples:
            found[(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
    return found


def value(server: MonitoringServer, name: str, **labels: str) -> float:
    return series(server)[(name, tuple(sorted(labels.items())))]


def test_scores_above_the_threshold_are_the_anomalies(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([0.2, 0.99, 1.01, 40.0, 900.0, np.nan]), NOW)
    count = value(server, "stream_ad_score_count")
    assert count == 5.0, "NaN is never observed"
    assert (
        count - value(server, "stream_ad_score_bucket", le="1.0") == value(server, "stream_ad_anomalies_total") == 3.0
    )
    assert value(server, "stream_ad_score_bucket", le="+Inf") == 5.0
    assert np.isfinite(value(server, "stream_ad_score_sum"))
    assert value(server, "stream_ad_records_total", result="unscored") == 1.0
    assert max(SCORE_EDGES) > 100


def test_a_batch_histogram_counts_as_a_histogram_does() -> None:
    histogram = BatchHistogram("x", "x", (1.0, 2.0))
    histogram.observe(np.array([0.5, 1.0, 1.5, 2.0, 3.0, np.inf, np.nan]))
    (family,) = histogram.collect()
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name == "x_bucket"}
    assert buckets == {"1.0": 2.0, "2.0": 4.0, "+Inf": 5.0}


def test_latency_is_never_negative_and_needs_a_time_stamp(metrics: Metrics, server: MonitoringServer) -> None:
    stamps = [int(NOW * 1000) - 250, int(NOW * 1000) + 3_600_000, NO_TIMESTAMP]
    metrics.observe_batch(*a_batch([0.1, 0.1, 0.1], stamps), NOW)
    assert value(server, "stream_ad_record_latency_seconds_count") == 2.0
    assert value(server, "stream_ad_record_latency_seconds_sum") == pytest.approx(0.25)


def test_lag_of_partitions_that_went_away_disappears(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([0.1], [int(NOW * 1000) - 5000]), NOW)
    metrics.set_lag([("t", 2, 7), ("t", 3, 0)], NOW)
    assert value(server, "stream_ad_consumer_lag_records", topic="t", partition="2") == 7.0
    assert value(server, "stream_ad_consumer_lag_seconds", topic="t", partition="2") == pytest.approx(5.0)
    metrics.set_lag([("t", 3, 0)], NOW)
    left = {labels for name, labels in series(server) if name.startswith("stream_ad_consumer_lag")}
    assert left == {(("partition", "3"), ("topic", "t"))}


def test_lag_in_seconds_keeps_topics_apart(metrics: Metrics, server: MonitoringServer) -> None:
    decoded, verdicts = a_batch([0.1, 0.1, 0.1], [int(NOW * 1000) - 5000, int(NOW * 1000) - 9000, NO_TIMESTAMP])
    decoded.batch.raw.topics[:] = ["t", "u", "v"]
    metrics.observe_batch(decoded, verdicts, NOW)
    metrics.set_lag([("t", 2, 1), ("u", 2, 1), ("v", 2, 1)], NOW)
    assert value(server, "stream_ad_consumer_lag_seconds", topic="t", partition="2") == pytest.approx(5.0)
    assert value(server, "stream_ad_consumer_lag_seconds", topic="u", partition="2") == pytest.approx(9.0)
    without_stamps = ("stream_ad_consumer_lag_seconds", (("partition", "2"), ("topic", "v")))
    assert without_stamps not in series(server)


def test_lag_in_seconds_is_nought_at_the_end_and_never_negative(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([0.1], [int(NOW * 1000) + 99_000]), NOW)
    metrics.set_lag([("t", 2, 5)], NOW)
    assert value(server, "stream_ad_consumer_lag_seconds", topic="t", partition="2") == 0.0


def test_alert_ratio_looks_back_on_the_latest_rows(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([2.0] * 5000), NOW)
    assert value(server, "stream_ad_alert_ratio") == 1.0
    metrics.observe_batch(*a_batch([0.1] * 15_000), NOW)
    assert value(server, "stream_ad_alert_ratio") == 0.0


def test_batches_without_scores_leave_the_alert_ratio_alone(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([2.0, 0.1]), NOW)
    for _ in range(100):
        metrics.observe_batch(*a_batch([np.nan]), NOW)
    assert value(server, "stream_ad_alert_ratio") == 0.5
    assert len(metrics._recent) == 1, "what is kept for the ratio stays bounded"


def test_source_counters_only_grow(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.set_source_counters(400, 1, 0, 2)
    metrics.set_source_counters(400, 1, 1, 2)
    assert value(server, "stream_ad_lost_records_total") == 400.0
    assert value(server, "stream_ad_commit_failures_total") == 1.0


def test_trainings_and_the_live_model(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.training_finished("rows", "killed", 12.0)
    assert value(server, "stream_ad_trainings_total", trigger="rows", result="killed") == 1.0
    metrics.model_swapped("v1", 0.0)
    metrics.model_swapped("v2", 0.0)
    assert ("stream_ad_model_info", (("version", "v1"),)) not in series(server)
    assert value(server, "stream_ad_model_info", version="v2") == 1.0
    assert value(server, "stream_ad_model_age_seconds") > 1e9


def test_counters_are_there_before_their_first_event(server: MonitoringServer) -> None:
    assert value(server, "stream_ad_trainings_total", trigger="time", result="timeout") == 0.0
    assert value(server, "stream_ad_trainings_total", trigger="regime", result="rejected") == 0.0
    assert value(server, "stream_ad_drift_total", signal="flagged", feature="") == 0.0
    assert value(server, "stream_ad_gate_refusals_total", check="alert_rate") == 0.0
    assert value(server, "stream_ad_labels_total", label="unreadable", result="invalid") == 0.0
    assert value(server, "stream_ad_dead_letters_total", reason="not_a_number") == 0.0
    assert value(server, "stream_ad_records_total", result="dead_letter") == 0.0


def test_the_loop_of_learning_is_told(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.drift_found("score")
    metrics.drift_found("residual", "b")
    metrics.set_regime_change(True)
    metrics.regime_changed("hold")
    metrics.set_quarantine_rows(12)
    metrics.gate_refused("auroc")
    metrics.rolled_back()
    metrics.set_reference_distance(3.5)
    metrics.set_adapted_false_alarm_rate(0.004)
    metrics.label_taken("normal", "unknown_record")
    assert value(server, "stream_ad_drift_total", signal="score", feature="") == 1.0
    assert value(server, "stream_ad_drift_total", signal="residual", feature="b") == 1.0
    assert value(server, "stream_ad_drift_total", signal="residual", feature="a") == 0.0
    assert value(server, "stream_ad_regime_change") == 1.0
    assert value(server, "stream_ad_regime_changes_total", action="hold") == 1.0
    assert value(server, "stream_ad_quarantine_rows") == 12.0
    assert value(server, "stream_ad_gate_refusals_total", check="auroc") == 1.0
    assert value(server, "stream_ad_rollbacks_total") == 1.0
    assert value(server, "stream_ad_reference_distance") == 3.5
    assert value(server, "stream_ad_adapted_false_alarm_rate") == 0.004
    assert value(server, "stream_ad_labels_total", label="normal", result="unknown_record") == 1.0
    metrics.set_regime_change(False)
    assert value(server, "stream_ad_regime_change") == 0.0


def test_episodes_begun_add_up_and_open_ones_do_not(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.episodes_observed(started=3, open=2, suppressed=0, longest_seconds=40.0)
    metrics.episodes_observed(started=1, open=1, suppressed=5, longest_seconds=2.0)
    assert value(server, "stream_ad_episodes_total") == 4.0
    assert value(server, "stream_ad_open_episodes") == 1.0
    assert value(server, "stream_ad_longest_open_episode_seconds") == 2.0
    assert value(server, "stream_ad_alerts_suppressed_total") == 5.0


def test_a_scorer_shows_nothing_of_learning_and_says_its_role() -> None:
    metrics = Metrics(["a"], "0.0", role="scorer")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert {s.labels["role"] for s in samples if s.name == "stream_ad_build_info"} == {"scorer"}
    learning = ("trainings", "drift", "regime_changes", "gate_refusals", "labels")
    assert not [s for s in samples if s.name in [f"stream_ad_{name}_total" for name in learning]]


def test_the_process_itself_is_measured(server: MonitoringServer) -> None:
    assert value(server, "process_resident_memory_bytes") > 1e6
    assert value(server, "process_start_time_seconds") > 1e9


def test_missing_share_by_feature(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([0.1, 0.1]), NOW)
    assert value(server, "stream_ad_feature_missing_ratio", feature="b") == 1.0
    assert value(server, "stream_ad_feature_missing_ratio", feature="a") == 0.0


def test_open_metrics_if_asked(metrics: Metrics, server: MonitoringServer) -> None:
    metrics.observe_batch(*a_batch([0.2, 7.0]), NOW)
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        names = {family.name for family in open_metrics(answer.read().decode())}
    assert {"stream_ad_score", "stream_ad_records", "stream_ad_build_info"} <= names


def test_two_workers_in_one_process_do_not_clash(metrics: Metrics) -> None:
    other = Metrics(["a"], "0.0")
    other.training_finished("rows", "accepted", 1.0)
    assert metrics.registry is not other.registry


def test_health_and_status(server: MonitoringServer) -> None:
    assert get(server, "/livez") == (200, "alive\n")
    code, body = get(server, "/readyz")
    assert (code, json.loads(body)) == (503, {"ready": False, "reasons": ["no model yet"]})
    assert json.loads(get(server, "/api/status")[1]) == {"rows": 3}
    assert "<td>rows</td><td>3</td>" in get(server, "/")[1]
    assert get(server, "/favicon.ico")[0] == 404


def test_readiness_follows_the_worker(metrics: Metrics) -> None:
    reasons = ["source and sink are not connected"]
    server = MonitoringServer(metrics, lambda: list(reasons), dict, "127.0.0.1", 0)
    server.start()
    try:
        assert value(server, "stream_ad_ready") == 0.0
        reasons.clear()
        assert get(server, "/readyz") == (200, '{"ready": true, "reasons": []}')
        assert value(server, "stream_ad_ready") == 1.0
    finally:
        server.close()


def test_a_status_that_cannot_be_told_is_an_error_and_no_bare_nan(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    server = MonitoringServer(metrics, list, lambda: {"rate": float("nan")}, "127.0.0.1", 0)
    server.start()
    try:
        code, body = get(server, "/api/status")
        assert (code, "NaN" in body) == (500, False)
        assert get(server, "/livez")[0] == 200
    finally:
        server.close()
    assert "no answer to /api/status" in caplog.text


def test_one_silent_client_holds_up_no_other(server: MonitoringServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server, "/livez")[0] == 200


def test_a_port_that_is_taken_is_named(metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"monitoring.port {port}"):
            MonitoringServer(metrics, list, dict, "127.0.0.1", port).start()


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(log_format: str, **extra: Any) -> str:
    stream = io.StringIO()
    configure_logs(log_format, "info", stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").warning("it %s", "broke", extra=extra, exc_info=True)
    return stream.getvalue()


def test_logs_for_machines_are_one_object_a_line(root_logger: None) -> None:
    line = json.loads(logged("auto", rows=3))
    assert (line["level"], line["message"], line["rows"]) == ("warning", "it broke", 3)
    assert "ValueError: why" in line["traceback"]


def test_logs_for_machines_are_strict_json(root_logger: None) -> None:
    def refused(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads(logged("json", share=float("nan"), most=float("inf"), text="\udcff"), parse_constant=refused)
    assert (line["share"], line["most"]) == ("nan", "inf")


def test_logs_for_people(root_logger: None) -> None:
    text = logged("human", rows=3, file="caf\udce9.csv")
    assert "warning it broke  rows=3  file=caf\\udce9.csv" in text
    assert "ValueError: why" in text


def test_one_line_a_minute_of_a_kind(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("stream_ad.monitoring.logs.time.monotonic", lambda: clock[0])
    once = OncePerMinute()
    log = logging.getLogger("x")
    clock[0] = 100.0
    for _ in range(1000):
        once.log(log, logging.WARNING, "parse", "bad record")
    once.log(log, logging.WARNING, "other", "another")
    clock[0] = 161.0
    once.log(log, logging.WARNING, "parse", "bad record")
    assert [record.getMessage() for record in caplog.records] == [
        "bad record",
        "another",
        "bad record (999 more like it since the last such line)",
    ]
