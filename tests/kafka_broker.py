"""A real Kafka broker for the tests and, by `python -m tests.kafka_broker`, for developers.

Apache Kafka comes as Maven artifacts into a cache outside the tree and runs as one KRaft node on free ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.cache import fetching

VERSION = "4.3.1"
INSTALL_HINT = (
    "install Java 17 and Maven (Debian: apt-get install openjdk-17-jre-headless maven) or Docker, "
    "or name a broker in STREAM_AD_TEST_KAFKA"
)

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stream-ad</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOG4J2 = """rootLogger.level = error
rootLogger.appenderRef.stderr.ref = STDERR
appender.stderr.type = Console
appender.stderr.name = STDERR
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = [%d] %p %m (%c)%n
"""

# Runs a command, its arguments but for the first, until it ends or our end of its standard input closes, which
# the operating system does for us however this process dies; then removes the folder that is the first.
KEEPER = """exec 3<&0
folder=$1; shift
"$@" </dev/null & child=$!
(cat <&3 >/dev/null; kill -9 $child) &
wait $child
rm -rf "$folder"
"""


class NoKafka(Exception):
    """There is nothing here to run a broker with."""


def libraries() -> Path:
    """Return the folder of Kafka's jars; fetches them by Maven the first time (54 MB)."""
    with fetching() as cache:
        folder = cache / f"kafka-{VERSION}"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                (Path(temporary) / "pom.xml").write_text(POM)
                command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
                subprocess.run(command, cwd=temporary, check=True, stdout=subprocess.DEVNULL, timeout=600)
                (Path(temporary) / "lib").rename(folder)
        return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def properties(port: int, controller: int, folder: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.retention.hours": "24",
    }


@contextmanager
def broker(port: int | None = None, extra: dict[str, str] | None = None) -> Iterator[str]:
    """Run a broker, yield its bootstrap address and kill it at the end, whatever happens.

    `extra` are server properties on top of (or instead of) the usual ones. Raises `NoKafka` where there is
    neither Java with Maven nor Docker.
    """
    port = port or free_port()
    if shutil.which("java") and shutil.which("mvn"):
        run = _java_broker(port, extra or {})
    elif shutil.which("docker"):
        run = _docker_broker(port, extra or {})
    else:
        raise NoKafka(f"no Kafka broker can be started here: {INSTALL_HINT}")
    with run:
        yield f"127.0.0.1:{port}"


@contextmanager
def _java_broker(port: int, extra: dict[str, str]) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="stream-ad-kafka-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        settings = properties(port, free_port(), folder) | extra
        server = folder / "server.properties"
        server.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        (folder / "log4j2.properties").write_text(LOG4J2)
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{libraries()}/*"]
        java.append(f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}")
        cluster = str(uuid.uuid4())
        storage = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(server)]
        with (folder / "log").open("w") as log:
            subprocess.run(storage, check=True, stdout=log, stderr=log, timeout=60)
            process = subprocess.Popen(
                ["sh", "-c", KEEPER, "kafka", str(folder), *java, "kafka.Kafka", str(server)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            try:
                _await(f"127.0.0.1:{port}")
            except KafkaException:
                sys.stderr.write((folder / "log").read_text())
                raise
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _docker_broker(port: int, extra: dict[str, str]) -> Iterator[None]:
    name = f"stream-ad-kafka-{uuid.uuid4().hex[:8]}"
    settings = properties(port, 9093, Path("/tmp/kafka")) | {"listeners": f"PLAINTEXT://:{port},CONTROLLER://:9093"}
    command = ["docker", "run", "--rm", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:{port}"]
    for key, value in (settings | extra).items():
        command += ["--env", f"KAFKA_{key.upper().replace('.', '_')}={value}"]
    subprocess.run([*command, f"apache/kafka:{VERSION}"], check=True, stdout=subprocess.DEVNULL, timeout=600)
    try:
        _await(f"127.0.0.1:{port}")
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, stdout=subprocess.DEVNULL)


def _await(bootstrap: str) -> None:
    """Return when the broker answers requests."""
    AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=60)


def main() -> None:
    """Run a broker on localhost:9092 until interrupted, with the topics of config.yaml."""
    topics = ["plant", "stream-ad.scores", "stream-ad.anomalies", "stream-ad.dead-letters"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with broker(9092) as bootstrap:
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        for made in admin.create_topics([NewTopic(topic, 4) for topic in topics]).values():
            made.result()
        sys.stdout.write(f"Kafka {VERSION} on localhost:9092, topics {', '.join(topics)}; Ctrl-C ends it.\n")
        sys.stdout.flush()
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


if __name__ == "__main__":
    main()
