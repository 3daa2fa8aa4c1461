"""Header names that are not UTF-8, which kafka-python refuses to read: one such record would stop a worker for ever.

Their bytes are kept within a `str`, as Python keeps those of file names ("surrogateescape").
"""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecordBatch

_read_strictly = DefaultRecordBatch._read_msg


def read_any_header_name() -> None:
    """Teach kafka-python, for this whole process, to read header names that are not UTF-8."""
    DefaultRecordBatch._read_msg = _read


class HeaderName(str):
    """A name that is not UTF-8. kafka-python encodes it to measure and to send it: to the bytes that were read."""

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        return super().encode(encoding, errors)


def _read(batch: Any) -> Any:
    """Read the next record. A reading that fails has taken nothing from the batch, so there can be another one."""
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        batch._buffer = _Buffer(batch._buffer)
        return _read_strictly(batch)


class _Buffer(bytearray):
    """Its slices can be decoded, whatever is in them."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Buffer(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return HeaderName(super().decode(encoding, errors))
