"""KafkaSource and KafkaSink against a real broker."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest
from kafka import OffsetAndMetadata, TopicPartition

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, DeadLetter
from stream_ad.transports import kafka_connection, kafka_refusals, kafka_source
from stream_ad.transports.base import ConfigurationError, DeliveryError, TransportError
from stream_ad.transports.kafka_header_names import HeaderName
from stream_ad.transports.kafka_positions import Positions
from stream_ad.transports.kafka_sink import KafkaSink
from stream_ad.transports.kafka_source import KafkaSource
from tests.conftest import Kafka
from tests.kafka_broker import broker, free_port

pytestmark = pytest.mark.kafka

MakeSource = Callable[..., KafkaSource]


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def source(kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSource]:
    """Makes opened sources of the topic in a group of this test; closes them at the end."""
    monkeypatch.setattr(kafka_connection, "METADATA_SECONDS", 0.5)
    made = []

    def make(**settings: object) -> KafkaSource:
        defaults = {"topics": [topic], "group": f"g-{topic}", "bootstrap_servers": kafka.bootstrap}
        made.append(KafkaSource(config.KafkaSource.model_validate(defaults | settings)))
        made[-1].open()
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def sink(kafka: Kafka, topic: str) -> Iterator[KafkaSink]:
    for name in ("scores", "anomalies", "dead"):
        kafka.create_topic(f"{topic}.{name}", config={"max.message.bytes": "20000"} if name != "anomalies" else {})
    settings = config.KafkaSink(
        topic=f"{topic}.scores",
        anomalies_topic=f"{topic}.anomalies",
        dead_letter_topic=f"{topic}.dead",
        bootstrap_servers=kafka.bootstrap,
        delivery_timeout=3.0,
    )
    sink = KafkaSink(settings, [topic])
    sink.open()
    yield sink
    sink.close()


def read(source: KafkaSource, n: int, timeout: float = 20.0) -> list[bytes | None]:
    """Poll and commit until `n` values have come; then once more, so that more would be seen."""
    values: list[bytes | None] = []
    deadline = time.monotonic() + timeout
    while len(values) < n and time.monotonic() < deadline:
        values += source.poll(0.2).values
        source.commit()
    values += source.poll(0.2).values
    source.commit()
    return values


def until(source: KafkaSource, reached: Callable[[], bool], timeout: float = 20.0) -> None:
    """Poll and commit until something is so."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, source.statistics()
        source.poll(0.1)
        source.commit()


def lag(source: KafkaSource) -> dict[int, int]:
    return {each.partition: each.records for each in source.statistics().lag}


class Reading(threading.Thread):
    """Polls and commits in the background; `lag` is that after the last poll."""

    def __init__(self, source: KafkaSource) -> None:
        super().__init__()
        self.lag: dict[int, int] = {}
        self._source = source
        self._done = threading.Event()

    def __enter__(self) -> Reading:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.is_set():
            self._source.poll(0.1)
            self._source.commit()
            self.lag = lag(self._source)


def numbered(n: int) -> list[bytes | None]:
    return [b"%d" % i for i in range(n)]


def incompressible(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def output(id_: str, **more: object) -> bytes:
    source = {"topic": "in", "partition": 0, "offset": 7}
    return json.dumps({"id": id_, "key": None, "source": source} | more).encode()


def letter(value: bytes | None, **fields: object) -> DeadLetter:
    defaults: dict[str, object] = {
        "key": None,
        "headers": [],
        "timestamp": NO_TIMESTAMP,
        "reason": "parse",
        "topic": "in",
        "partition": 0,
        "offset": 7,
    }
    return DeadLetter(value=value, **(defaults | fields))  # type: ignore[arg-type]  # a test's short form


class TestReading:
    def test_keys_values_headers_and_stamps_come_byte_for_byte(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic, 2)
        headers = [("a", b"\xff"), ("a", None), ("", b"")]
        kafka.produce(
            topic,
            values=[b"\x00\xff", None, b""],
            keys=[b"\xfe", b"", None],
            headers=[headers, [], []],
            partition=1,
            timestamps=[1_700_000_000_123, 5, 6],
        )
        reader = source()
        batch = reader.poll(20.0)

        assert batch.values == [b"\x00\xff", None, b""]
        assert batch.keys == [b"\xfe", b"", None]
        assert list(map(list, batch.headers)) == [headers, [], []]
        assert batch.timestamps.tolist() == [1_700_000_000_123, 5, 6]
        assert batch.topics == [topic] * 3
        assert batch.partitions.tolist() == [1, 1, 1]
        assert batch.offsets.tolist() == [0, 1, 2]
        assert not reader.exhausted

    def test_header_names_that_are_no_text_are_read_and_written_again(
        self, topic: str, source: MakeSource, sink: KafkaSink
    ) -> None:
        name = HeaderName(b"\xe4\xf6".decode(errors="surrogateescape"))
        sink.write_dead_letters([letter(b"1"), letter(b"2", headers=[(name, b"\xff"), ("ü", None)]), letter(b"3")])
        sink.flush()
        reader = source(topics=[f"{topic}.dead"])
        found: dict[bytes | None, object] = {}
        while len(found) < 3:
            batch = reader.poll(5.0)
            assert len(batch)
            found |= zip(batch.values, batch.headers, strict=True)

        assert found == {b"1": [], b"2": [(name, b"\xff"), ("ü", None)], b"3": []}
        assert name.encode("utf-8") == b"\xe4\xf6"

    def test_a_poll_is_bounded_and_a_restart_goes_on_where_was_committed(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(25))
        first = source(max_poll_records=10)
        until(first, lambda: bool(lag(first)))
        assert len(first.poll(5.0)) <= 10
        uncommitted = KafkaSource(first._settings)
        first.close()
        uncommitted.open()

        rest = read(uncommitted, 5)
        uncommitted.close()

        assert rest == numbered(25)[-len(rest) :]
        assert kafka.committed(f"g-{topic}", topic) == {0: 25}

    def test_small_records_fill_a_batch_and_large_ones_come_in_smaller_batches(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic)
        # As arrays of many like rows they are large, but not in a fetch.
        large: list[bytes | None] = [b"x" * 500_000] * 100
        kafka.produce(topic, [*large, *numbered(20_000), *large], compression_type="zstd")
        reader = source(max_poll_records=2000)
        batches = []
        while sum(map(len, batches)) < 20_200:
            batches.append(reader.poll(5.0).values)
            assert batches[-1]

        sizes = [sum(len(value or b"") for value in batch) for batch in batches]
        small = [len(batch) for batch in batches if (batch[0] or b"")[:1] != b"x"]
        assert len(batches) < 50
        assert max(small) == 2000
        assert max(sizes[:6]) == 8_000_000
        # Those that come upon large records after small ones are larger.
        assert sum(size > 9_000_000 for size in sizes) <= 2

    def test_what_was_polled_but_not_committed_comes_again(self, kafka: Kafka, topic: str, source: MakeSource) -> None:
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(5))
        first = source()
        assert len(first.poll(20.0)) == 5
        first.close()

        assert read(source(), 5) == numbered(5)

    @pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
    def test_every_compression_is_read(self, kafka: Kafka, topic: str, source: MakeSource, compression: str) -> None:
        kafka.create_topic(topic)
        values = [b"%d" % i * 50 for i in range(100)]
        kafka.produce(topic, values, compression_type=compression)

        assert read(source(), 100) == values


class TestTransactions:
    def test_aborted_records_are_not_read_and_markers_leave_no_lag(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic)
        producer = kafka.producer(transactional_id=topic)
        producer.init_transactions()
        for value, commit in [
            (b"kept", True),
            (b"dropped", False),
            (b"kept too", True),
            (b"dropped too", False),
        ]:
            producer.begin_transaction()
            producer.produce(topic, value)
            producer.flush()
            (producer.commit_transaction if commit else producer.abort_transaction)()
        reader = source()

        assert read(reader, 2) == [b"kept", b"kept too"]
        # Four records and four markers.
        until(reader, lambda: kafka.committed(f"g-{topic}", topic) == {0: 8})
        assert lag(reader) == {0: 0}

    def test_an_open_transaction_shows_as_lag_and_in_the_log(
        self,
        kafka: Kafka,
        topic: str,
        source: MakeSource,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(kafka_source, "HELD_BACK_SECONDS", 0.3)
        kafka.create_topic(topic)
        producer = kafka.producer(transactional_id=topic)
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(topic, b"waits")
        producer.flush()
        reader = source()

        until(reader, lambda: "transaction open" in caplog.text)
        assert lag(reader) == {0: 1}

        producer.commit_transaction()
        assert read(reader, 1) == [b"waits"]


class TestWhereReadingBegins:
    def test_latest_is_for_a_new_group_only_and_holds_after_a_crash(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic, 2)
        kafka.produce(topic, [b"old"], partition=0)
        reader = source(start="latest")
        until(reader, lambda: kafka.committed(f"g-{topic}", topic) == {0: 1, 1: 0})
        reader.close()
        kafka.produce(topic, [b"new"], partition=0)
        kafka.produce(topic, [b"new"], partition=1)
        reader = source(start="latest")
        assert read(reader, 2) == [b"new", b"new"]

        # Written before the reader can know of the partition.
        kafka.add_partitions(topic, 3)
        kafka.produce(topic, numbered(100), partition=2)

        assert read(reader, 100) == numbered(100)
        assert lag(reader) == {0: 0, 1: 0, 2: 0}

    def test_a_start_that_another_member_commits_meanwhile_is_taken_over(self) -> None:
        """All members of a new group begin at once; what one has committed must not look like a group in use."""
        p0, p1 = TopicPartition("t", 0), TopicPartition("t", 1)
        consumer, cluster = Mock(), Mock()
        cluster.topic_id.return_value = None
        cluster.partitions_for_topic.return_value = {0, 1}
        consumer._subscription.all_consumed_offsets.return_value = {}
        consumer.committed.side_effect = [None, 7, 5, 7]

        Positions(consumer, cluster, ["t"], "latest").choose_start({p0})

        assert [call.args[0] for call in consumer.committed.mock_calls] == [p0, p1, p0, p1]
        consumer.seek.assert_called_once_with(p0, 5)

    def test_reading_goes_on_before_records_that_the_brokers_lost(self) -> None:
        consumer, tp = Mock(), TopicPartition("t", 0)
        Positions(consumer, Mock(), ["t"], "earliest").return_before_truncation(
            {tp: OffsetAndMetadata(3, "", 1), TopicPartition("t", 1): None}
        )
        consumer.seek.assert_called_once_with(tp, 3)

    def test_records_lost_to_retention_are_counted(
        self, kafka: Kafka, topic: str, source: MakeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(100))
        reader = source()
        assert len(read(reader, 100)) == 100
        reader.close()
        kafka.produce(topic, numbered(500))
        kafka.delete_records(topic, 500)

        reader = source(start="latest")

        assert read(reader, 100) == numbered(500)[400:]
        assert reader.statistics().lost_records == 400
        assert "committed offset 100, oldest 500, 400 lost" in caplog.text

    def test_a_topic_made_again_is_read_from_its_beginning(
        self, kafka: Kafka, topic: str, source: MakeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(100))
        reader = source(start="latest")
        kafka_group = f"g-{topic}"
        until(reader, lambda: kafka.committed(kafka_group, topic) == {0: 100})
        kafka.delete_topic(topic)
        until(reader, lambda: reader.statistics().missing_topics == [topic])
        assert lag(reader) == {}
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(50))

        assert read(reader, 50) == numbered(50)
        assert reader.statistics().resets == 1
        assert reader.statistics().missing_topics == []
        assert "re-created" in caplog.text
        assert "committed offset 100, now 0 to" in caplog.text
        assert lag(reader) == {0: 0}
        assert kafka.committed(kafka_group, topic) == {0: 50}

    @pytest.mark.parametrize("new", [20, 80])
    def test_a_topic_made_again_at_once_is_noticed_too(
        self, kafka: Kafka, topic: str, source: MakeSource, new: int
    ) -> None:
        """Whether it is shorter than the position or has already outgrown it."""
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(50))
        reader = source()
        assert len(read(reader, 50)) == 50
        kafka.delete_topic(topic)
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(new))

        seen: set[bytes | None] = set()
        deadline = time.monotonic() + 20
        while len(seen) < new and time.monotonic() < deadline:
            seen.update(reader.poll(0.2).values)
            reader.commit()

        assert seen == set(numbered(new))
        assert reader.statistics().resets == 1

    def test_a_committed_offset_beyond_the_end_starts_over(
        self, kafka: Kafka, topic: str, source: MakeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        kafka.create_topic(topic)
        kafka.produce(topic, numbered(50))
        reader = source()
        reader.poll(20.0)
        reader._consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1000, "", -1)})
        reader.close()

        reader = source()

        assert read(reader, 50) == numbered(50)
        assert reader.statistics().resets == 1
        assert "re-created or lost records" in caplog.text
        assert "committed offset 1000, now 0 to 50" in caplog.text
        assert kafka.committed(f"g-{topic}", topic) == {0: 50}


class TestGroups:
    def test_short_polls_do_not_lose_an_assignment(self, kafka: Kafka, topic: str, source: MakeSource) -> None:
        kafka.create_topic(topic)
        for i in range(8):
            reader = source(group=f"g{i}-{topic}")
            deadline = time.monotonic() + 10
            while not lag(reader) and time.monotonic() < deadline:
                reader.poll(0.02)
            assert lag(reader) == {0: 0}

    def test_partitions_that_went_to_another_member_leave_the_statistics(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic, 2)
        kafka.produce(topic, numbered(40))
        first = source()
        assert len(read(first, 40)) == 40
        assert lag(first) == {0: 0, 1: 0}
        assert first.statistics().revoked == set()
        with Reading(source()) as second:
            until(first, lambda: len(lag(first)) == 1 and len(second.lag) == 1)

            assert lag(first).keys() | second.lag.keys() == {0, 1}
            assert first.statistics().rebalances == 1
            assert first.statistics().revoked == {(topic, partition) for partition in second.lag}

    def test_a_refused_commit_is_counted_and_does_not_stop_anything(
        self, kafka: Kafka, topic: str, source: MakeSource
    ) -> None:
        kafka.create_topic(topic, 2)
        first = source(session_timeout=6.0, max_poll_interval=3.0)
        until(first, lambda: len(lag(first)) == 2)
        second = source(session_timeout=6.0)
        kafka.produce(topic, numbered(10), partition=0)
        kafka.produce(topic, numbered(10), partition=1)
        assert len(first.poll(5.0)) > 0
        # The first does not poll any more, so the second gets both partitions after 3 s.
        assert len(read(second, 20)) == 20

        first.commit()

        assert first.statistics().commit_failures == 1
        second.close()
        kafka.produce(topic, [b"after"])
        assert read(first, 1) == [b"after"]
        assert first.statistics().commit_failures == 1


class TestConnecting:
    def test_an_unknown_topic_is_a_configuration_error(self, kafka: Kafka, topic: str, source: MakeSource) -> None:
        with pytest.raises(ConfigurationError, match=rf"source\.topics.*{topic}.*{kafka.bootstrap}"):
            source()

    def test_unknown_sink_topics_are_named(self, kafka: Kafka, topic: str) -> None:
        kafka.create_topic(topic)
        settings = config.KafkaSink(
            topic=topic,
            dead_letter_topic=f"{topic}.dead",
            anomalies_topic=None,
            bootstrap_servers=kafka.bootstrap,
        )
        with pytest.raises(ConfigurationError, match=rf"sink\.dead_letter_topic.*{topic}\.dead"):
            KafkaSink(settings, []).open()

    def test_an_input_topic_is_refused_as_output(self, topic: str) -> None:
        settings = config.KafkaSink(dead_letter_topic=topic)
        with pytest.raises(ConfigurationError, match=r"sink\.dead_letter_topic"):
            KafkaSink(settings, [topic]).open()

    def test_a_closed_port_is_retryable_and_leaves_nothing_behind(
        self, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_connection, "CONNECT_SECONDS", 0.5)
        address = f"127.0.0.1:{free_port()}"
        source = KafkaSource(config.KafkaSource(topics=[topic], bootstrap_servers=address))
        before = threading.active_count()
        for _ in range(2):
            with pytest.raises(TransportError, match=address) as caught:
                source.open()
            assert not isinstance(caught.value, ConfigurationError)
        assert threading.active_count() == before

    def test_a_port_that_does_not_answer_is_given_up(self, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kafka_connection, "CONNECT_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            source = KafkaSource(config.KafkaSource(topics=[topic], bootstrap_servers=address))
            start = time.monotonic()
            with pytest.raises(TransportError, match=address):
                source.open()
            assert time.monotonic() - start < 5

    def test_tls_to_a_plain_port_and_a_missing_certificate_name_their_key(
        self, kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_connection, "CONNECT_SECONDS", 0.5)
        connection = {"topics": [topic], "bootstrap_servers": kafka.bootstrap, "security_protocol": "SSL"}
        with pytest.raises(ConfigurationError, match=r"source\.ssl_cafile: /no/such/file"):
            KafkaSource(config.KafkaSource.model_validate(connection | {"ssl_cafile": "/no/such/file"})).open()
        with pytest.raises(TransportError, match="security_protocol"):
            KafkaSource(config.KafkaSource.model_validate(connection)).open()

    def test_a_wrong_password_an_unknown_mechanism_and_an_address_out_of_reach_are_told_apart(
        self, kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_connection, "CONNECT_SECONDS", 1.0)
        inside, outside, advertised = free_port(), free_port(), free_port()
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        listeners = f"PLAINTEXT://127.0.0.1:{inside},SASL_PLAINTEXT://127.0.0.1:{outside}"
        settings = {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{free_port()}",
            "advertised.listeners": listeners.replace(str(outside), str(advertised)),
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{module} required user_worker="right";',
        }
        connection = {
            "topics": [topic],
            "bootstrap_servers": f"127.0.0.1:{outside}",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": "worker",
        }

        def error(**secrets: str) -> TransportError:
            with pytest.raises(TransportError) as caught:
                KafkaSource(config.KafkaSource.model_validate(connection | secrets)).open()
            return caught.value

        controller = settings["listeners"].rsplit(":", 1)[1]
        settings["controller.quorum.voters"] = f"1@127.0.0.1:{controller}"
        with broker(inside, settings):
            wrong = error(sasl_mechanism="PLAIN", sasl_password="wrong-one")
            unknown = error(sasl_mechanism="SCRAM-SHA-512", sasl_password="right")
            unreachable = error(sasl_mechanism="PLAIN", sasl_password="right")

        assert isinstance(wrong, ConfigurationError)
        assert "source.sasl_password" in str(wrong)
        assert "wrong-one" not in str(wrong)
        assert isinstance(unknown, ConfigurationError)
        assert "source.sasl_mechanism" in str(unknown)
        assert not isinstance(unreachable, ConfigurationError)
        for word in ("advertised.listeners", f"127.0.0.1:{outside}", f"127.0.0.1:{advertised}"):
            assert word in str(unreachable)

    def test_a_missing_right_is_named_at_the_start_and_one_taken_away_later_when_it_is_missed(self) -> None:
        inside, outside, controller = free_port(), free_port(), free_port()
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        listeners = f"PLAINTEXT://127.0.0.1:{inside},SASL_PLAINTEXT://127.0.0.1:{outside}"
        settings = {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": listeners,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{module} required user_worker="pw";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        connection = {
            "bootstrap_servers": f"127.0.0.1:{outside}",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "worker",
            "sasl_password": "pw",
        }
        names = {"topic": "scores", "anomalies_topic": None, "dead_letter_topic": "dead"}

        with broker(inside, settings) as bootstrap:
            kafka = Kafka(bootstrap)
            for name in ("in", "scores", "dead"):
                kafka.create_topic(name)
                kafka.allow("worker", name, "DESCRIBE")
            sink = KafkaSink(config.KafkaSink.model_validate(connection | names), [])
            with pytest.raises(ConfigurationError, match=r"source\.topics.*'in'.*Grant Read"):
                KafkaSource(config.KafkaSource.model_validate(connection | {"topics": ["in"]})).open()
            kafka.allow("worker", "scores", "WRITE")
            with pytest.raises(ConfigurationError, match=r"sink\.dead_letter_topic.*'dead'.*Grant Write"):
                sink.open()
            kafka.allow("worker", "dead", "WRITE")
            sink.open()

            kafka.deny("worker", "dead", "WRITE")
            sink.write_dead_letters([letter(b"{")])
            with pytest.raises(ConfigurationError, match=r"sink\.dead_letter_topic.*Grant Write"):
                sink.flush()
            kafka.deny("worker", "scores", "WRITE")
            sink.write([None], [b"x"])
            with pytest.raises(ConfigurationError, match=r"sink\.topic.*Grant Write"):
                sink.flush()
            sink.close()


class TestWriting:
    def test_outputs_and_anomalies_keep_their_keys(self, kafka: Kafka, topic: str, sink: KafkaSink) -> None:
        sink.write([b"\xff", None, b""], [b"a", b"b", b"c"])
        sink.write_alerts([b"\xff", b""], [b"a", b"c"])
        sink.flush()

        scores = kafka.consume(f"{topic}.scores", 3)
        assert {(r.key, r.value) for r in scores} == {(b"\xff", b"a"), (None, b"b"), (b"", b"c")}
        anomalies = kafka.consume(f"{topic}.anomalies", 2)
        assert [(r.key, r.value) for r in anomalies] == [(b"\xff", b"a"), (b"", b"c")]

    def test_a_key_goes_to_the_partition_that_other_clients_choose(self, kafka: Kafka, topic: str) -> None:
        for name in ("ours", "theirs", "dead"):
            kafka.create_topic(f"{topic}.{name}", 5)
        keys: list[bytes | None] = [b"pump-%d" % i for i in range(50)]
        values = [b"%d" % i for i in range(50)]
        kafka.produce(f"{topic}.theirs", values, keys, partitioner="murmur2_random")
        settings = config.KafkaSink(
            topic=f"{topic}.ours",
            anomalies_topic=None,
            dead_letter_topic=f"{topic}.dead",
            bootstrap_servers=kafka.bootstrap,
        )
        sink = KafkaSink(settings, [])
        sink.open()
        sink.write(keys, values)
        sink.flush()
        sink.close()

        ours = {r.key: r.partition for r in kafka.consume(f"{topic}.ours", 50)}
        assert ours == {r.key: r.partition for r in kafka.consume(f"{topic}.theirs", 50)}
        assert len(set(ours.values())) == 5

    def test_a_batch_too_large_for_the_topic_is_sent_in_parts(self, kafka: Kafka, topic: str, sink: KafkaSink) -> None:
        values = [random.Random(i).randbytes(2000) for i in range(40)]
        sink.write([None] * 40, values)
        sink.flush()

        assert [r.value for r in kafka.consume(f"{topic}.scores", 40)] == values

    @pytest.mark.parametrize("size", [30_000, 40 << 20])  # More than the topic takes; more than the client sends.
    def test_outputs_too_large_are_reduced_and_nothing_else_is_lost(
        self, kafka: Kafka, topic: str, sink: KafkaSink, caplog: pytest.LogCaptureFixture, size: int
    ) -> None:
        long = incompressible(size // 2).hex()
        wide = [f"{i}-{long[10 * i : 10 * i + 20]}" for i in range(2000)]
        shares = {name: i / 2000 for i, name in enumerate(wide)}
        outputs = [
            output("small"),
            output("wide", expected=dict.fromkeys(wide, 1.5), attribution=shares, imputed=[]),
            output("long key", key=long),
            output(long),
            output("small too"),
        ]
        keys = [None, b"w", b"k", b"i", None]
        for _ in range(2):
            sink.write(keys, outputs)
            sink.write_alerts([b"w"], [output("alert")])
            sink.flush()

        found = {r.key: json.loads(r.value or b"") for r in kafka.consume(f"{topic}.scores", 8)}
        assert found[None]["id"] in ("small", "small too")
        assert list(found[b"w"]["attribution"]) == list(found[b"w"]["expected"]) == wide[:-11:-1]
        assert found[b"w"]["reduced"] == ["features"]
        assert (found[b"k"]["key"], found[b"k"]["reduced"]) == (None, ["key"])
        (dead, _) = kafka.consume(f"{topic}.dead", 2)
        headers = dict(dead.headers)
        assert (dead.key, headers["stream_ad.errors.reason"]) == (b"i", b"too_large")
        assert headers["__connect.errors.offset"] == b"7"
        assert len(kafka.consume(f"{topic}.anomalies", 2)) == 2
        assert caplog.text.count("outputs are too large") == 1

    def test_a_vanished_topic_is_an_error_within_the_time_for_delivery(
        self, kafka: Kafka, topic: str, sink: KafkaSink
    ) -> None:
        sink.write([None], [b"x"])
        sink.flush()
        kafka.delete_topic(f"{topic}.scores")
        start = time.monotonic()
        with pytest.raises(DeliveryError, match=f"{topic}.scores"):
            sink.write([None], [b"x"])
            sink.flush()
        sink.close()
        assert time.monotonic() - start < 20


class TestDeadLetters:
    def test_they_come_as_they_were(self, kafka: Kafka, topic: str, sink: KafkaSink) -> None:
        headers = [("a", b"1"), ("a", None), ("utf", "ü".encode()), ("empty", b"")]
        letters = [
            letter(b"\xff{", key=b"\xfe", headers=headers, timestamp=1_700_000_000_123),
            letter(b"", key=b"", headers=[("only null", None)]),
            letter(None, key=None),
        ]
        sink.write_dead_letters(letters)
        sink.flush()

        first, second, third = kafka.consume(f"{topic}.dead", 3)
        assert (first.key, first.value, first.headers) == (b"\xfe", b"\xff{", headers)
        assert first.timestamp == 1_700_000_000_123
        assert (second.key, second.value, second.headers) == (b"", b"", [("only null", None)])
        assert (third.key, third.value, third.headers) == (None, None, [])

    def test_one_too_large_goes_without_its_value_and_nothing_else_is_lost(
        self, kafka: Kafka, topic: str, sink: KafkaSink, caplog: pytest.LogCaptureFixture
    ) -> None:
        for size in (30_000, 40 << 20):  # More than the topic takes; more than the client sends.
            sink.write_dead_letters(
                [
                    letter(b"small"),
                    letter(incompressible(size), key=b"k", headers=[("h", None)]),
                    letter(b"small too"),
                ]
            )
            sink.flush()
        sink.write([None], [b"goes on"])
        sink.flush()

        found = {(r.key, r.value, tuple(r.headers)) for r in kafka.consume(f"{topic}.dead", 6)}
        omitted = "stream_ad.errors.value_omitted"
        assert found == {
            (None, b"small", ()),
            (None, b"small too", ()),
            (b"k", b"", (("h", None), (omitted, b"30000"))),
            (b"k", b"", (("h", None), (omitted, b"%d" % (40 << 20)))),
        }
        assert "30000 bytes" in caplog.text
        assert "20000" in caplog.text
        assert kafka.consume(f"{topic}.scores", 1)[0].value == b"goes on"

    def test_a_time_that_the_topic_refuses_stands_in_a_header(self, kafka: Kafka, topic: str, sink: KafkaSink) -> None:
        kafka.create_topic(f"{topic}.strict", config={"message.timestamp.before.max.ms": "60000"})
        sink._settings.dead_letter_topic = f"{topic}.strict"
        now = int(1000 * time.time())
        past, future = now - 120_000, now + 7_200_000
        # With one refused time in a request the error is another one than with several.
        for times in ([now, future, now], [now, past, future, now], [future]):
            sink.write_dead_letters([letter(b"x", key=b"k", headers=[("h", None)], timestamp=each) for each in times])
            sink.flush()

        found = kafka.consume(f"{topic}.strict", 8)
        mended = [dict(r.headers) for r in found if len(r.headers) > 1]
        times_kept = sorted(int(headers["stream_ad.errors.timestamp"] or b"") for headers in mended)
        assert times_kept == [past, future, future, future]
        assert [r.timestamp for r in found if len(r.headers) == 1] == [now] * 4
        assert all(abs(r.timestamp - now) < 60_000 for r in found)

    def test_parts_are_left_out_until_the_topic_takes_the_rest(
        self, kafka: Kafka, topic: str, sink: KafkaSink, caplog: pytest.LogCaptureFixture
    ) -> None:
        large = incompressible(30_000)
        ours: list[tuple[str, bytes | None]] = [("stream_ad.errors.reason", b"parse")]
        sink.write_dead_letters(
            [
                letter(b"{", key=b"1", headers=[("h", large), *ours], ours=1),
                letter(b"{", key=large, headers=ours, ours=1),
                letter(b"{", key=b"3", headers=[("stream_ad.errors.reason", large)], ours=1),
                letter(b"{", key=b"4", headers=ours, ours=1),
            ]
        )
        sink.flush()

        reason, omitted = (f"stream_ad.errors.{name}" for name in ("reason", "{}_omitted"))
        found = {r.key: dict(r.headers) for r in kafka.consume(f"{topic}.dead", 3)}
        assert found == {
            b"1": {reason: b"parse", omitted.format("value"): b"1", omitted.format("headers"): b"30001"},
            None: {reason: b"parse", omitted.format("value"): b"1", omitted.format("key"): b"30000"},
            b"4": {reason: b"parse"},
        }
        lost = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.name.startswith("stream_ad")]
        assert len(lost) == 1 and "is lost" in lost[0]

    def test_many_too_large_ones_are_told_of_once_and_ask_for_the_limit_once(
        self, sink: KafkaSink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = Mock(return_value="20000")
        monkeypatch.setattr(kafka_refusals, "max_message_bytes", asked)
        for _ in range(2):
            sink.write_dead_letters([letter(incompressible(30_000)) for _ in range(20)])
            sink.flush()

        assert caplog.text.count("without its value") == 1
        assert asked.call_count == 1


def test_kafka_pythons_log_is_thinned_out(caplog: pytest.LogCaptureFixture) -> None:
    kafka_connection._KAFKA_LOG.install()
    noisy = logging.getLogger("kafka.cluster")
    for i in range(100):
        noisy.error("a test's message %d", i)
    assert caplog.messages == ["a test's message 0"]


def test_passwords_do_not_show_in_settings() -> None:
    settings = config.KafkaSink.model_validate({"sasl_password": "hunter2"})
    shown = kafka_connection.client_config(settings, "sink")
    assert shown["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in str(shown)
