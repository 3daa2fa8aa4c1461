"""What a row is: the schema, the codecs, and the columns that travel through the worker."""

from stream_ad.records.batch import (
    LONGEST_CACHED,
    NO_TIMESTAMP,
    BadRecord,
    Batch,
    DeadLetter,
    Decoded,
    Headers,
    Place,
    RawBatch,
    Reason,
    RefusedRecord,
    Status,
    Verdicts,
)
from stream_ad.records.dead_letters import dead_letters, shortened, undeliverable, without_timestamp
from stream_ad.records.decoder import Decoder, make_decoder
from stream_ad.records.encoding import encode
from stream_ad.records.episode import EndedBy, Episode, encode_episode
from stream_ad.records.field_drift import FieldDrift
from stream_ad.records.reducing import with_top_features, without_key
from stream_ad.records.schema import NO_CONTEXT, Context, RecordSchema
from stream_ad.records.timestamps import format_timestamp

__all__ = [
    "LONGEST_CACHED",
    "NO_CONTEXT",
    "NO_TIMESTAMP",
    "BadRecord",
    "Batch",
    "Context",
    "DeadLetter",
    "Decoded",
    "Decoder",
    "EndedBy",
    "Episode",
    "FieldDrift",
    "Headers",
    "Place",
    "RawBatch",
    "Reason",
    "RecordSchema",
    "RefusedRecord",
    "Status",
    "Verdicts",
    "dead_letters",
    "encode",
    "encode_episode",
    "format_timestamp",
    "make_decoder",
    "shortened",
    "undeliverable",
    "with_top_features",
    "without_key",
    "without_timestamp",
]
