"""Smaller versions of an output record, for a topic that refuses it as too large."""

from __future__ import annotations

import json
from typing import Any

from stream_ad.records.json_codec import slow_parse

TOP_FEATURES = 10


def with_top_features(output: bytes) -> bytes:
    """The output with the features alone that have the largest shares, and no more imputed ones than that."""
    record = slow_parse(output)
    shares = record.get("attribution", {})
    top = sorted(shares, key=lambda name: shares[name] or 0.0, reverse=True)[:TOP_FEATURES]
    smaller: dict[str, Any] = {
        name: {feature: record[name][feature] for feature in top} for name in ("expected", "attribution") if shares
    }
    if "imputed" in record:
        smaller["imputed"] = record["imputed"][:TOP_FEATURES]
    return _reduced(record, smaller, "features")


def without_key(output: bytes) -> bytes:
    """The output without its key, which the record has as well."""
    record = slow_parse(output)
    record.pop("key_encoding", None)
    return _reduced(record, {"key": None}, "key")


def _reduced(record: dict[str, Any], smaller: dict[str, Any], part: str) -> bytes:
    if any(record[name] != value for name, value in smaller.items()):
        record |= smaller | {"reduced": [*record.get("reduced", []), part]}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
