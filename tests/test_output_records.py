"""Output records: strict JSON, whatever came in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from stream_ad.records import NO_TIMESTAMP, Batch, RawBatch, RecordSchema, Status, Verdicts, encode

SCHEMA = RecordSchema(["a", "b"])


def encoded(ids: list[str | int], values: list[list[float]], **changes: Any) -> list[dict[str, Any]]:
    n = len(ids)
    keys: list[bytes | None] = changes.get("keys", [None] * n)
    stamps = np.full(n, NO_TIMESTAMP, np.int64)
    none: list[bytes | None] = [None] * n
    raw = RawBatch(none, keys, [()] * n, stamps, ["t"] * n, np.zeros(n, np.int32), np.arange(n))
    index = np.arange(n)
    x = np.array(values, np.float64)
    batch = Batch(raw, x, index, np.full(n, -1), ids, keys, stamps, np.zeros(n, np.bool_))
    flagged = np.array(changes.get("flagged", []), np.int64)
    verdicts = Verdicts(
        status=np.array(changes.get("status", [Status.SCORED] * n), np.uint8),
        score=np.array(changes.get("score", [0.5] * n)),
        p_value=np.full(n, 0.25),
        is_anomaly=np.isin(index, flagged),
        flagged=flagged,
        expected=np.array([[1.0, np.nan]] * len(flagged)).reshape(-1, 2),
        attribution=np.array([[0.75, 0.25]] * len(flagged)).reshape(-1, 2),
        imputed=np.isnan(x).any(axis=1),
        model="m1",
    )

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no strict JSON")

    return [json.loads(text.decode(), parse_constant=refuse) for text in encode(batch, verdicts, SCHEMA)]


def test_a_plain_row() -> None:
    [row] = encoded(["x"], [[1.0, 2.0]])
    assert row == {
        "schema_version": 1,
        "id": "x",
        "key": None,
        "timestamp": None,
        "status": "scored",
        "score": 0.5,
        "p_value": 0.25,
        "is_anomaly": False,
        "model": "m1",
        "source": {"topic": "t", "partition": 0, "offset": 0},
    }


def test_ids_of_any_size_and_text_come_out_as_they_came_in() -> None:
    ids: list[str | int] = [10**30, -(2**63) - 1, "10", 'quote " \\ \n', "µ,{}", "\0id\0"]
    assert [row["id"] for row in encoded(ids, [[1.0, 2.0]] * 6)] == ids
    [row] = encoded(["\ud83d"], [[1.0, 2.0]])
    assert row["id"] == "?"


def test_keys_that_are_no_text_are_marked() -> None:
    rows = encoded([1, 2, 3], [[1.0, 2.0]] * 3, keys=[b"\xff\x00", b"", "ü".encode()])
    assert [(row["key"], row.get("key_encoding")) for row in rows] == [("/wA=", "base64"), ("", None), ("ü", None)]


def test_nothing_that_is_not_finite_goes_out() -> None:
    [row] = encoded([1], [[np.nan, 2.0]], score=[np.inf], flagged=[0])
    assert row["score"] is None
    assert row["expected"] == {"a": 1.0, "b": None}
    assert row["attribution"] == {"a": 0.75, "b": 0.25}
    assert row["imputed"] == ["a"]


def test_rows_with_filled_in_values_say_so_flagged_or_not() -> None:
    nothing = [np.nan, np.nan]
    rows = encoded([1, 2, 3], [[1.0, np.nan], nothing, [1.0, 2.0]], status=[0, Status.UNSCORED, 0])
    assert [row.get("imputed") for row in rows] == [["b"], None, None]


def test_no_rows_make_no_records() -> None:
    assert encoded([], np.empty((0, 2)).tolist() or np.empty((0, 2))) == []  # type: ignore[arg-type]  # shape [0, 2]
