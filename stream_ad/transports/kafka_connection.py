"""Connecting to Kafka with kafka-python, and finding out what is wrong when that fails."""

from __future__ import annotations

import itertools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient, codec, errors
from kafka.admin import ConfigResource
from kafka.net.compat import KafkaNetClient
from pydantic import SecretStr

from stream_ad.config import KafkaConnection
from stream_ad.transports.base import ConfigurationError, TransportError

CONNECT_SECONDS = 5.0
# New partitions, and topics that were made again, are found within this time.
METADATA_SECONDS = 10.0

_probe_number = itertools.count(1)


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
    made: list[KafkaNetClient] = []

    def network(**network_config: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**network_config))
        return made[0]

    try:
        return kind(kafka_client=network, **config), made[0]
    except BaseException:
        for client in made:
            client.close()
        raise


def probe(settings: KafkaConnection, section: str, topics: Sequence[tuple[str, str]]) -> None:
    """Connect once and see whether all `topics`, pairs of config key and name, are there.

    Raises `ConfigurationError` for what waiting cannot mend and `TransportError` for what it may.
    """
    _check_codecs()
    config = client_config(settings, section) | {"client_id": f"stream-ad-probe-{next(_probe_number)}"}
    with _KAFKA_LOG.captured(f"kafka-io-{config['client_id']}") as captured:
        try:
            admin, network = make_client(KafkaAdminClient, request_timeout_ms=int(1000 * CONNECT_SECONDS), **config)
        except errors.KafkaError as error:
            raise _diagnosis(settings, section, captured) from error
        except ValueError as error:
            raise ConfigurationError(f"{section}.bootstrap_servers: not a list of HOST:PORT: {error}") from error
        try:
            _check_advertised(network, settings, section)
            found = {topic["name"]: topic["error_code"] for topic in admin.describe_topics([t for _, t in topics])}
        except errors.KafkaError as error:
            raise TransportError(f"the brokers at {settings.bootstrap_servers} do not answer: {error}") from error
        finally:
            admin.close()
    for key, topic in topics:
        _check_topic(key, topic, errors.for_code(found.get(topic, 3)), settings)


def max_message_bytes(settings: KafkaConnection, section: str, topic: str) -> str:
    """Return what the topic takes in one message, in bytes, or "unknown" if the brokers do not tell."""
    key = "max.message.bytes"
    try:
        admin, _ = make_client(KafkaAdminClient, **client_config(settings, section))
        with closing(admin):
            found = admin.describe_configs([ConfigResource("topic", topic, [key])], config_filter="all")
        return str(found["topic"][topic][key]["value"])
    except (errors.KafkaError, LookupError):
        return "unknown"


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


def _check_codecs() -> None:
    """The producer of a record chooses its compression, so all of them must be readable."""
    packages = {"python-snappy": codec.has_snappy, "lz4": codec.has_lz4, "zstandard": codec.has_zstd}
    missing = [package for package, is_there in packages.items() if not is_there()]
    if missing:
        raise ConfigurationError(f"compressed records cannot be read: pip install {' '.join(missing)}")


def _check_advertised(network: KafkaNetClient, settings: KafkaConnection, section: str) -> None:
    """A broker sends its clients on to its advertised address; see whether any of those can be reached."""
    failures = []
    for broker in network.cluster.brokers()[:3]:
        try:
            socket.create_connection((broker.host, broker.port), timeout=CONNECT_SECONDS / 3).close()
            return
        except OSError as error:
            failures.append(f"{broker.host}:{broker.port} ({error})")
    raise TransportError(
        f"{settings.bootstrap_servers} ({section}.bootstrap_servers) answers, but the address that it "
        f"advertises cannot be reached from here: {', '.join(failures)}. Set advertised.listeners of the "
        "broker to an address that this machine can reach."
    )


def _check_topic(key: str, topic: str, error: type[Exception], settings: KafkaConnection) -> None:
    where = f"on the brokers at {settings.bootstrap_servers}"
    if error is errors.NoError:
        return
    if error is errors.UnknownTopicOrPartitionError:
        raise ConfigurationError(f"{key}: there is no topic {topic!r} {where}. Create it or correct the name.")
    if error is errors.TopicAuthorizationFailedError:
        raise ConfigurationError(
            f"{key}: {settings.sasl_username or 'this client'} is not authorised to use topic {topic!r} "
            f"{where}, or it does not exist. Grant Describe and Read (a source) or Write (a sink)."
        )
    if issubclass(error, errors.RetriableError):
        raise TransportError(f"{key}: topic {topic!r} {where} is not available: {error.__name__}")
    raise ConfigurationError(f"{key}: topic {topic!r} {where} cannot be used: {error.__name__}")


def _diagnosis(settings: KafkaConnection, section: str, captured: list[logging.LogRecord]) -> TransportError:
    """Say why no connection came about; only kafka-python's log tells."""
    arguments = [argument for r in captured if isinstance(r.args, tuple) for argument in r.args]
    causes = [argument for argument in arguments if isinstance(argument, Exception)]
    servers = settings.bootstrap_servers
    for cause in reversed(causes):
        text = str(cause)
        if isinstance(cause, errors.SaslAuthenticationFailedError):
            return ConfigurationError(
                f"{section}.sasl_username, {section}.sasl_password: the broker at {servers} refuses user "
                f"{settings.sasl_username!r} or the password ({settings.sasl_mechanism}): {text}"
            )
        if isinstance(cause, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError):
            return ConfigurationError(
                f"{section}.sasl_mechanism, {section}.security_protocol: the broker at {servers} does not "
                f"take {settings.sasl_mechanism} over {settings.security_protocol}: {text}"
            )
        if isinstance(cause, errors.KafkaConfigurationError):
            return ConfigurationError(f"{section}: {text}")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            key = "ssl_check_hostname" if "mismatch" in text else "ssl_cafile"
            return ConfigurationError(f"{section}.{key}: the certificate of {servers} is not trusted: {text}")
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            return ConfigurationError(
                f"{section}.security_protocol: {servers} does not speak TLS ({settings.security_protocol}): {text}"
            )
        if "ALERT" in text and "CERTIFICATE" in text:
            return ConfigurationError(
                f"{section}.ssl_certfile, {section}.ssl_keyfile: {servers} refuses our certificate: {text}"
            )
    last = next((c for c in reversed(causes) if not isinstance(c, errors.KafkaTimeoutError)), "no answer")
    if "socket disconnected" in str(last) and any(getattr(a, "broker_version", None) for a in arguments):
        # kafka-python drops an answer that comes together with the end of the connection, as refusals do.
        if "SASL" in settings.security_protocol:
            return ConfigurationError(
                f"{section}.sasl_username, {section}.sasl_password, {section}.sasl_mechanism: the broker at "
                f"{servers} ends the connection when user {settings.sasl_username!r} authenticates by "
                f"{settings.sasl_mechanism}: most likely it refuses the user or the password."
            )
        return ConfigurationError(
            f"{section}.security_protocol: the broker at {servers} ends every connection by "
            f"{settings.security_protocol}: most likely it asks for authentication."
        )
    return TransportError(
        f"no Kafka broker answers at {servers} by {settings.security_protocol}: {last}. Check "
        f"{section}.bootstrap_servers and {section}.security_protocol, and that the broker is up."
    )


class _KafkaLog(logging.Filter):
    """Keeps kafka-python's log readable: each message at most once a minute, and none of a probe.

    It logs every retry, up to ten a second while a broker or topic is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._captured: dict[str, list[logging.LogRecord]] = {}
        self._silent_until: dict[tuple[str, str], float] = {}

    def install(self) -> None:
        """Filters of a logger do not see what its children log, so each one gets it."""
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("kafka."):
                logging.getLogger(name).addFilter(self)

    @contextmanager
    def captured(self, thread: str) -> Iterator[list[logging.LogRecord]]:
        """Hold back and collect what the thread logs."""
        self._captured[thread] = []
        try:
            yield self._captured[thread]
        finally:
            del self._captured[thread]

    def filter(self, record: logging.LogRecord) -> bool:
        captured = self._captured.get(record.threadName or "")
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
