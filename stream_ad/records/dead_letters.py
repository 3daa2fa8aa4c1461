"""Bad records on their way out, with all they had and why they are bad."""

from __future__ import annotations

from stream_ad.records.batch import BadRecord, DeadLetter, Decoded, RawBatch

STAGE = b"VALUE_CONVERTER"
"""What Kafka Connect calls the stage in which a value cannot be converted (KIP-298)."""
CONVERTER = b"stream_ad.records"
MOST_ROWS = 100
"""Bad rows that a letter names: a list of all might be longer than the record, and too long for the topic."""


def dead_letters(decoded: Decoded) -> list[DeadLetter]:
    """One letter for each bad record: its original headers first, in order, then ours.

    Ours have Kafka Connect's names, so that its tools can read them; those that an earlier reader left stay.
    """
    return [_letter(decoded.batch.raw, bad) for bad in decoded.bad]


def _letter(raw: RawBatch, bad: BadRecord) -> DeadLetter:
    i = bad.record
    topic, partition, offset = raw.topics[i], int(raw.partitions[i]), int(raw.offsets[i])
    ours: list[tuple[str, bytes | None]] = [
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.partition", str(partition).encode()),
        ("__connect.errors.offset", str(offset).encode()),
        ("__connect.errors.stage", STAGE),
        ("__connect.errors.class.name", CONVERTER),
        ("__connect.errors.exception.class.name", bad.reason.encode()),
        ("__connect.errors.exception.message", bad.message.encode()),
        ("stream_ad.errors.reason", bad.reason.encode()),
    ]
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
    )
