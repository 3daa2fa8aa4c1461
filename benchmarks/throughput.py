"""How fast the worker is beside the bare Kafka client.

Copies JSON records topic to topic by turns through kafka-python alone (consume and produce, nothing in
between) and through `stream-ad run` with a trained model, and prints a table. Both do their work in a process
of their own, with the same client settings. Speed is the number of output records over the time between the
broker's time stamps of the first and the last of them, so that start-up counts for neither.

    python benchmarks/throughput.py                               # starts a broker by itself
    python benchmarks/throughput.py --bootstrap localhost:9092
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import confluent_kafka
import numpy as np
import orjson
import psutil
import yaml
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.sensors import sensor_rows

PARTITIONS = 4
TRAINING_ROWS = 5000
CHUNK = 10_000
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
"""Without a new output record for so long the measurement breaks off."""

# Consumer and producer as the worker sets them; one flush and commit at the end, then it waits to be ended.
BARE_CLIENT = """
import signal
import sys
from kafka import KafkaConsumer, KafkaProducer

bootstrap, source, target, group, records = *sys.argv[1:5], int(sys.argv[5])
consumer = KafkaConsumer(
    source, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest",
    enable_auto_commit=False, isolation_level="read_committed", max_poll_records=5000,
    fetch_max_bytes=32 << 20, max_partition_fetch_bytes=4 << 20, metrics_enabled=False,
)
producer = KafkaProducer(
    bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, compression_type="lz4",
    batch_size=256 << 10, linger_ms=5, metrics_enabled=False,
)
done = 0
while done < records:
    for polled in consumer.poll(200).values():
        for record in polled:
            producer.send(target, record.value, record.key)
        done += len(polled)
producer.flush()
consumer.commit()
signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run through one of the two."""

    kind: str
    rows_per_second: float
    cpu_seconds_per_million: float
    """From the first output to the last."""
    peak_rss_mb: float


class Bench:
    """Topics, records and model of one benchmark."""

    def __init__(self, bootstrap: str, folder: Path, records: int, features: int) -> None:
        self.bootstrap = bootstrap
        self.records = records
        self._folder = folder
        self._features = [f"sensor_{i:02}" for i in range(features)]
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._name = f"bench-{uuid.uuid4().hex[:8]}"
        self._topics: list[str] = []
        self.source = self.topic("in")

    def topic(self, name: str) -> str:
        """Make a topic whose records are stamped by the broker."""
        topic = f"{self._name}-{name}"
        config = {"message.timestamp.type": "LogAppendTime"}
        self._admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result()
        self._topics.append(topic)
        self._await_leaders(topic)
        return topic

    def _await_leaders(self, topic: str) -> None:
        """A new topic is known a moment before its partitions take requests."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._ends(topic)
                return
            except confluent_kafka.KafkaException:
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_SECONDS)

    def delete_topics(self) -> None:
        for future in self._admin.delete_topics(self._topics).values():
            future.result()

    def rows(self, n: int, rng: np.random.Generator) -> list[bytes]:
        """JSON records of correlated normal features."""
        values = np.round(sensor_rows(n, len(self._features), rng), 4).tolist()
        return [orjson.dumps(dict(zip(self._features, row, strict=True))) for row in values]

    def fill(self, advance: Callable[[int], object]) -> None:
        """Put the records into the input topic."""
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 2 * CHUNK,
                "sticky.partitioning.linger.ms": 20,
            }
        )
        rng = np.random.default_rng(1)
        for first in range(0, self.records, CHUNK):
            values = self.rows(min(CHUNK, self.records - first), rng)
            for value in values:
                producer.produce(self.source, value)
            if producer.flush(60):
                raise SystemExit(f"the broker at {self.bootstrap} did not take the records within 60 s")
            advance(len(values))

    def train(self) -> None:
        """Put a model into the registry that all runs of the worker use."""
        history = self._folder / "history.jsonl"
        history.write_bytes(b"\n".join(self.rows(TRAINING_ROWS, np.random.default_rng(2))) + b"\n")
        config = self._config("scores", "dead-letters", "unused")
        command = [*stream_ad("train"), "-c", str(config), "--input", str(history)]
        trained = subprocess.run(command, capture_output=True, text=True, check=False)
        if trained.returncode:
            raise SystemExit(f"training failed:\n{trained.stdout}{trained.stderr}")

    def bare(self, number: int, advance: Callable[[int], object]) -> Measurement:
        """Copy all records through kafka-python alone."""
        target, group = self.topic(f"bare-{number}"), f"{self._name}-bare-{number}"
        command = [sys.executable, "-c", BARE_CLIENT, self.bootstrap, self.source, target, group]
        return self._measure("bare", [*command, str(self.records)], target, group, advance)

    def worker(self, number: int, advance: Callable[[int], object]) -> Measurement:
        """Score all records by `stream-ad run`."""
        target, group = self.topic(f"worker-{number}"), f"{self._name}-worker-{number}"
        config = self._config(target, self.topic(f"dead-letters-{number}"), group)
        return self._measure("worker", [*stream_ad("run"), "-c", str(config)], target, group, advance)

    def _config(self, target: str, dead_letters: str, group: str) -> Path:
        connection = {"type": "kafka", "bootstrap_servers": self.bootstrap}
        path = self._folder / "config.yaml"
        config = {
            "source": connection | {"topics": [self.source], "group": group},
            "schema": {"features": self._features},
            "training": {"every_rows": None, "every_seconds": None},
            "sink": connection | {"topic": target, "anomalies_topic": None, "dead_letter_topic": dead_letters},
            "registry": {"path": str(self._folder / "models")},
            "monitoring": {"host": "127.0.0.1", "port": 0},
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _measure(
        self, kind: str, command: list[str], target: str, group: str, advance: Callable[[int], object]
    ) -> Measurement:
        with (self._folder / "log").open("w+") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            process = psutil.Process(child.pid)
            try:
                rows, cpu = self._watch(process, target, advance)
                self._await_commit(process, group)
                process.terminate()
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
                if child.returncode not in (0, -signal.SIGTERM):
                    raise BrokeOff(f"exit code {child.returncode}")
            except BrokeOff as reason:
                log.seek(0)
                raise SystemExit(f"{kind}: {reason}\n{log.read()[-4000:]}") from reason
            finally:
                if child.returncode is None:
                    child.kill()
                    child.wait()
        return Measurement(kind, self.records / self._seconds(target), 1e6 * cpu / rows, usage.ru_maxrss / 1024)

    def _watch(self, process: psutil.Process, target: str, advance: Callable[[int], object]) -> tuple[int, float]:
        """Wait for all outputs; return how many came after the first ones, and the CPU seconds for these."""
        seen, first_seen, first_cpu = 0, 0, 0.0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while seen < self.records:
            require_progress(process, deadline)
            rows = sum(end for _, end in self._ends(target))
            if rows > seen:
                if not seen:
                    first_seen, first_cpu = rows, cpu_seconds(process)
                advance(rows - seen)
                seen, deadline = rows, time.monotonic() + PATIENCE_SECONDS
            time.sleep(LOOK_SECONDS)
        return max(1, seen - first_seen), cpu_seconds(process) - first_cpu

    def _await_commit(self, process: psutil.Process, group: str) -> None:
        """Wait until the group has committed all records: what is not committed is not done."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._committed(group) < self.records:
            require_progress(process, deadline)
            time.sleep(LOOK_SECONDS)

    def _committed(self, group: str) -> int:
        [future] = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        return sum(max(0, found.offset) for found in future.result().topic_partitions)

    def _ends(self, topic: str) -> list[tuple[int, int]]:
        """Partition and number of records, of those that have any."""
        wanted = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(PARTITIONS)}
        ends = [(tp.partition, future.result().offset) for tp, future in self._admin.list_offsets(wanted).items()]
        return [(partition, end) for partition, end in ends if end > 0]

    def _seconds(self, topic: str) -> float:
        """Between the broker's time stamps of the first and the last record of the topic."""
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.bootstrap, "group.id": "unused"})
        stamps = []
        for partition, end in self._ends(topic):
            for offset in (0, end - 1):
                consumer.assign([TopicPartition(topic, partition, offset)])
                record = consumer.poll(PATIENCE_SECONDS)
                if record is None or record.error():
                    raise SystemExit(f"cannot read {topic} back: {record and record.error()}")
                stamps.append(record.timestamp()[1])
        consumer.close()
        return max(0.001, (max(stamps) - min(stamps)) / 1000)


class BrokeOff(Exception):
    """The process under measurement has ended or stands still."""


def require_progress(process: psutil.Process, deadline: float) -> None:
    if process.status() == psutil.STATUS_ZOMBIE:
        raise BrokeOff("ended before all was copied")
    if time.monotonic() > deadline:
        raise BrokeOff(f"nothing new for {PATIENCE_SECONDS:g} s")


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def stream_ad(command: str) -> list[str]:
    return [sys.executable, "-m", "stream_ad.cli", command]


def table(measurements: list[Measurement]) -> Table:
    """One line a run, then the medians and their ratio."""
    shown = Table("", "rows/s", "CPU s / million rows", "peak RSS, MB")
    for column in shown.columns[1:]:
        column.justify = "right"
    for measured in measurements:
        shown.add_row(measured.kind, *cells(measured))
    shown.add_section()
    for kind in ("bare", "worker"):
        shown.add_row(f"{kind}, median", *cells(median(measurements, kind)))
    shown.add_row("worker / bare", f"{speed_ratio(measurements):.2f}")
    return shown


def cells(measured: Measurement) -> tuple[str, str, str]:
    return (
        f"{measured.rows_per_second:,.0f}",
        f"{measured.cpu_seconds_per_million:.1f}",
        f"{measured.peak_rss_mb:.0f}",
    )


def median(measurements: list[Measurement], kind: str) -> Measurement:
    """The median of each figure over the runs of a kind."""
    runs = [measured for measured in measurements if measured.kind == kind]
    return Measurement(
        kind,
        statistics.median(run.rows_per_second for run in runs),
        statistics.median(run.cpu_seconds_per_million for run in runs),
        statistics.median(run.peak_rss_mb for run in runs),
    )


def speed_ratio(measurements: list[Measurement]) -> float:
    return median(measurements, "worker").rows_per_second / median(measurements, "bare").rows_per_second


def measure(bench: Bench, repeats: int, console: Console) -> list[Measurement]:
    """Fill, train, then run bare client and worker by turns."""
    measurements = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        filling = progress.add_task("filling the input topic", total=bench.records)
        bench.fill(lambda n: progress.advance(filling, n))
        training = progress.add_task("training a model", total=None)
        bench.train()
        progress.update(training, total=1, completed=1)
        for number in range(1, repeats + 1):
            for kind, run in (("bare", bench.bare), ("worker", bench.worker)):
                task = progress.add_task(f"{kind} client" if kind == "bare" else kind, total=bench.records)
                measurements.append(run(number, partial(progress.advance, task)))
    return measurements


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a running broker; else one is started")
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    console = Console()
    with ExitStack() as stack:
        bootstrap = options.bootstrap or stack.enter_context(own_broker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-ad-bench-")))
        bench = Bench(bootstrap, folder, options.records, options.features)
        stack.callback(bench.delete_topics)
        measurements = measure(bench, options.repeats, console)
    console.print(table(measurements))
    if options.json:
        figures = {"runs": [asdict(run) for run in measurements], "worker_to_bare": speed_ratio(measurements)}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def own_broker() -> AbstractContextManager[str]:
    """The broker of the tests."""
    from tests.kafka_broker import broker

    return broker()


if __name__ == "__main__":
    main()
