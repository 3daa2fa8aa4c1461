"""What a row is: the schema, the codecs, and the columns that travel through the worker."""

from stream_ad.records.batch import (
    NO_TIMESTAMP,
    BadRecord,
    Batch,
    DeadLetter,
    Decoded,
    RawBatch,
    Reason,
    Status,
    Verdicts,
)

__all__ = ["NO_TIMESTAMP", "BadRecord", "Batch", "DeadLetter", "Decoded", "RawBatch", "Reason", "Status", "Verdicts"]
