"""Making kafka-python's clients from our settings, and keeping their log readable."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka.net.compat import KafkaNetClient
from pydantic import SecretStr

from stream_ad.config import KafkaConnection
from stream_ad.transports.base import ConfigurationError
from stream_ad.transports.kafka_header_names import read_any_header_name

CONNECT_SECONDS = 5.0
# New partitions, and topics that were made again, are found within this time.
METADATA_SECONDS = 10.0
METADATA_PAUSE_SECONDS = 0.02


class _Password(str):
    """Keeps itself out of kafka-python's debug log, which prints whole configurations."""

    def __repr__(self) -> str:
        return "'***'"


def client_config(settings: KafkaConnection, section: str) -> dict[str, Any]:
    """Return what every kafka-python client needs to connect.

    `section` is the part of config.yaml that the settings stand in, for messages.
    Raises `ConfigurationError` for a certificate or key that cannot be loaded, or for missing credentials.
    """
    _check_credentials(settings, section)
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": "stream-ad",
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": _password(settings.sasl_password),
        "ssl_context": _ssl_context(settings, section) if "SSL" in settings.security_protocol else None,
        "bootstrap_timeout_ms": int(1000 * CONNECT_SECONDS),
        "metadata_max_age_ms": int(1000 * METADATA_SECONDS),
        "reconnect_backoff_max_ms": 5000,
    }


def make_client(kind: Callable[..., Any], **config: Any) -> tuple[Any, KafkaNetClient]:
    """Make a consumer, producer or admin client; return it with the network client beneath it.

    kafka-python connects in the constructor, and one that fails leaves its thread and sockets behind: here
    they are closed.
    """
    _KAFKA_LOG.install()
    read_any_header_name()
    made: list[KafkaNetClient] = []

    def network(**network_config: Any) -> KafkaNetClient:
        # It would warn of every step that takes longer than 0.1 s, which large fetches do on a busy machine.
        made.append(_Network(**network_config, slow_task_threshold_secs=0))
        return made[0]

    try:
        return kind(kafka_client=network, **config), made[0]
    except BaseException:
        for client in made:
            client.close()
        raise


@contextmanager
def captured_log(thread: str) -> Iterator[list[logging.LogRecord]]:
    """Hold back and collect what kafka-python logs in a thread."""
    records = _KAFKA_LOG.captured[thread] = []
    try:
        yield records
    finally:
        del _KAFKA_LOG.captured[thread]


def _password(secret: SecretStr | None) -> str | None:
    return None if secret is None else _Password(secret.get_secret_value())


def _check_credentials(settings: KafkaConnection, section: str) -> None:
    if "SASL" not in settings.security_protocol:
        return
    needed = ["sasl_mechanism"]
    if settings.sasl_mechanism not in ("OAUTHBEARER", "GSSAPI"):
        needed += ["sasl_username", "sasl_password"]
    missing = [f"{section}.{key}" for key in needed if getattr(settings, key) is None]
    if missing:
        raise ConfigurationError(
            f"{section}.security_protocol is {settings.security_protocol}: give {', '.join(missing)}"
        )


def _ssl_context(settings: KafkaConnection, section: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:
        raise ConfigurationError(f"{section}.ssl_cafile: {settings.ssl_cafile}: {error}") from error
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is not None:
        # Without a password OpenSSL would ask for one on the terminal.
        password = _password(settings.ssl_password) or ""
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password)
        except OSError as error:
            files = f"{settings.ssl_certfile}, {settings.ssl_keyfile or 'no key file'}"
            raise ConfigurationError(
                f"{section}.ssl_certfile, ssl_keyfile, ssl_password: cannot load {files}: {error}"
            ) from error
    return context


class _Network(KafkaNetClient):  # type: ignore[misc]  # kafka-python ships no types
    """Slows a producer's thread down while it waits for metadata; it asks for them without a pause."""

    def poll(self, timeout_ms: float | None = None, future: Any = None) -> None:
        super().poll(timeout_ms=timeout_ms, future=future)
        if self.cluster.need_update:
            time.sleep(METADATA_PAUSE_SECONDS)


class _KafkaLog(logging.Filter):
    """Lets each message of kafka-python pass once a minute, and none of the threads that are captured.

    It logs every retry, up to ten a second while a broker or topic is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.captured: dict[str, list[logging.LogRecord]] = {}
        self._silent_until: dict[tuple[str, str], float] = {}

    def install(self) -> None:
        """Filters of a logger do not see what its children log, so each one gets it."""
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("kafka."):
                logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        captured = self.captured.get(record.threadName or "")
        if captured is not None:
            captured.append(record)
            return False
        if record.levelno < logging.INFO:
            return True
        message = (record.name, str(record.msg))
        if record.created < self._silent_until.get(message, 0.0):
            return False
        self._silent_until[message] = record.created + 60.0
        return True


_KAFKA_LOG = _KafkaLog()
