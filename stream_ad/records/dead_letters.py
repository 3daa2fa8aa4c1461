"""Bad records on their way out, with all they had and why they are bad."""

from __future__ import annotations

from dataclasses import replace

from stream_ad.records.batch import NO_TIMESTAMP, BadRecord, DeadLetter, Decoded, RawBatch, Reason
from stream_ad.records.json_codec import slow_parse

STAGE = b"VALUE_CONVERTER"
"""What Kafka Connect calls the stage in which a value cannot be converted (KIP-298), and that of sending."""
SENDING = b"KAFKA_PRODUCE"
CONVERTER = b"stream_ad.records"
MOST_ROWS = 100
"""Bad rows that a letter names: a list of all might be longer than the record, and too long for the topic."""


def dead_letters(decoded: Decoded) -> list[DeadLetter]:
    """One letter for each bad record: its original headers first, in order, then ours.

    Ours have Kafka Connect's names, so that its tools can read them; those that an earlier reader left stay.
    """
    return [_letter(decoded.batch.raw, bad) for bad in decoded.bad]


def undeliverable(key: bytes | None, output: bytes, topic: str) -> DeadLetter:
    """An output record that its topic refuses as too large, however it is reduced."""
    source = slow_parse(output)["source"]
    place = source["topic"], source["partition"], source["offset"]
    message = f"an output of {len(output)} bytes with a key of {len(key or b'')} is too large for topic {topic}"
    headers = _our_headers(*place, SENDING, Reason.TOO_LARGE, message)
    return DeadLetter(key, output, headers, NO_TIMESTAMP, Reason.TOO_LARGE, *place, ours=len(headers))


def without_timestamp(letter: DeadLetter) -> DeadLetter:
    """The letter for a topic that refuses its time, which stands in a header instead."""
    return _noting(replace(letter, timestamp=NO_TIMESTAMP), "timestamp", letter.timestamp)


def shortened(letter: DeadLetter) -> tuple[str, int, DeadLetter] | None:
    """What to leave out of a letter that is too large, how many bytes that is, and the letter without it.

    First its value goes, then the original headers, then the key, and a header says so. None if all are gone.
    """
    first_of_ours = len(letter.headers) - letter.ours
    original = letter.headers[:first_of_ours]
    if letter.value:
        part, size, rest = "value", len(letter.value), replace(letter, value=b"")
    elif original:
        size = sum(len(name.encode("utf-8")) + len(value or b"") for name, value in original)
        part, rest = "headers", replace(letter, headers=letter.headers[first_of_ours:])
    elif letter.key:
        part, size, rest = "key", len(letter.key), replace(letter, key=None)
    else:
        return None
    return part, size, _noting(rest, f"{part}_omitted", size)


def _noting(letter: DeadLetter, name: str, value: int) -> DeadLetter:
    header = (f"stream_ad.errors.{name}", str(value).encode())
    return replace(letter, headers=[*letter.headers, header], ours=letter.ours + 1)


def _letter(raw: RawBatch, bad: BadRecord) -> DeadLetter:
    i = bad.record
    topic, partition, offset = raw.topics[i], int(raw.partitions[i]), int(raw.offsets[i])
    ours = _our_headers(topic, partition, offset, STAGE, bad.reason, bad.message)
    if bad.rows:
        ours.append(("stream_ad.errors.rows", ",".join(map(str, bad.rows[:MOST_ROWS])).encode()))
    if len(bad.rows) > MOST_ROWS:
        ours.append(("stream_ad.errors.row_count", str(len(bad.rows)).encode()))
    return DeadLetter(
        key=raw.keys[i],
        value=raw.values[i],
        headers=[*raw.headers[i], *ours],
        timestamp=int(raw.timestamps[i]),
        reason=bad.reason,
        topic=topic,
        partition=partition,
        offset=offset,
        ours=len(ours),
    )


def _our_headers(
    topic: str, partition: int, offset: int, stage: bytes, reason: str, message: str
) -> list[tuple[str, bytes | None]]:
    return [
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.partition", str(partition).encode()),
        ("__connect.errors.offset", str(offset).encode()),
        ("__connect.errors.stage", stage),
        ("__connect.errors.class.name", CONVERTER),
        ("__connect.errors.exception.class.name", reason.encode()),
        ("__connect.errors.exception.message", message.encode()),
        ("stream_ad.errors.reason", reason.encode()),
    ]
