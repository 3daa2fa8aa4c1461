"""UTF-16, in which some tools write their texts and which nothing here reads."""

from __future__ import annotations

BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
MANY = 0.4


def is_utf16(text: bytes) -> bool:
    """Whether a text has its byte order mark, or a zero byte with nearly each of its characters.

    >>> is_utf16("temp,20.5".encode("utf-16-le")), is_utf16(b"temp,20.5"), is_utf16(bytes(20))
    (True, False, False)
    """
    rest = text.replace(b"\0", b"")
    zeros = len(text) - len(rest)
    return text[:2] in BYTE_ORDER_MARKS or (zeros >= MANY * len(text) and is_printable(rest))


def is_printable(text: bytes) -> bool:
    """Whether this is mostly ASCII, and not empty."""
    return sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) > 0.95 * len(text)
