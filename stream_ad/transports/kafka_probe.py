"""Finding out at the start whether a Kafka cluster can be used as configured, and if not, why."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Literal

from kafka import KafkaAdminClient, codec, errors
from kafka.admin import ConfigResource
from kafka.net.compat import KafkaNetClient

from stream_ad.config import KafkaConnection
from stream_ad.transports.base import ConfigurationError, TransportError
from stream_ad.transports.kafka_connection import captured_log, client_config, make_client

# For each of at most three advertised addresses.
ADDRESS_SECONDS = 1.5

Right = Literal["Read", "Write"]

_probe_number = itertools.count(1)


def probe(settings: KafkaConnection, section: str, topics: Sequence[tuple[str, str]], right: Right = "Read") -> None:
    """Connect once and see whether all `topics`, pairs of config key and name, are there and give us the `right`.

    Raises `ConfigurationError` for what waiting cannot mend and `TransportError` for what it may.
    """
    _check_codecs()
    config = client_config(settings, section) | {"client_id": f"stream-ad-probe-{next(_probe_number)}"}
    with captured_log(f"kafka-io-{config['client_id']}") as captured:
        try:
            admin, network = make_client(KafkaAdminClient, request_timeout_ms=config["bootstrap_timeout_ms"], **config)
        except errors.KafkaError as error:
            raise _diagnosis(settings, section, captured) from error
        except ValueError as error:
            raise ConfigurationError(f"{section}.bootstrap_servers: not a list of HOST:PORT: {error}") from error
        try:
            _check_advertised(network, settings, section)
            found = {topic["name"]: topic for topic in admin.describe_topics([t for _, t in topics])}
        except errors.KafkaError as error:
            raise TransportError(f"the brokers at {settings.bootstrap_servers} do not answer: {error}") from error
        finally:
            admin.close()
    for key, topic in topics:
        _check_topic(key, topic, errors.for_code(found[topic]["error_code"] if topic in found else 3), settings)
        _check_right(key, topic, right, found[topic].get("authorized_operations"), settings)


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
            socket.create_connection((broker.host, broker.port), timeout=ADDRESS_SECONDS).close()
            return
        except OSError as error:
            failures.append(f"{broker.host}:{broker.port} ({error})")
    raise TransportError(
        f"{settings.bootstrap_servers} ({section}.bootstrap_servers) answers, but the address that it "
        f"advertises cannot be reached from here: {', '.join(failures)}. Set advertised.listeners of the "
        "broker to an address that this machine can reach."
    )


def _check_right(key: str, topic: str, right: Right, given: Sequence[str] | None, settings: KafkaConnection) -> None:
    """Brokers tell of a topic to whoever has any right on it, and of these rights; old ones do not tell."""
    if given and right.upper() not in given:
        raise ConfigurationError(
            f"{key}: {user_of(settings)} is not authorised to {right.lower()} topic {topic!r} on the brokers at "
            f"{settings.bootstrap_servers}, but for {', '.join(sorted(given)).title()}. Grant {right} on it."
        )


def user_of(settings: KafkaConnection) -> str:
    return settings.sasl_username or "this client"


def _check_topic(key: str, topic: str, error: type[Exception], settings: KafkaConnection) -> None:
    where = f"on the brokers at {settings.bootstrap_servers}"
    if error is errors.NoError:
        return
    if error is errors.UnknownTopicOrPartitionError:
        raise ConfigurationError(f"{key}: there is no topic {topic!r} {where}. Create it or correct the name.")
    if error is errors.TopicAuthorizationFailedError:
        raise ConfigurationError(
            f"{key}: {user_of(settings)} is not authorised to use topic {topic!r} "
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
    timeouts = (errors.KafkaTimeoutError, errors.RequestTimedOutError)
    last = next((c for c in reversed(causes) if not isinstance(c, timeouts)), "no answer in time")
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
