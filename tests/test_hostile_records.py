"""Decoding records: what is a row, what is missing, what is bad."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
from kafka.partitioner import murmur2

from stream_ad.records import NO_TIMESTAMP, Decoded, RawBatch, Reason, RecordSchema, dead_letters, make_decoder
from stream_ad.records.numbers import FLOAT32_MAX
from stream_ad.transports.kafka_sink import key_hash

SCHEMA = RecordSchema(["a", "b"], id="id", key="k")


def raw(*values: bytes | None, headers: list[list[tuple[str, bytes | None]]] | None = None) -> RawBatch:
    n = len(values)
    stamps = np.full(n, NO_TIMESTAMP, np.int64)
    return RawBatch(
        list(values), [b"r"] * n, headers or [[]] * n, stamps, ["t"] * n, np.zeros(n, np.int32), np.arange(n)
    )


def decode(*values: bytes | None, schema: RecordSchema = SCHEMA) -> Decoded:
    return make_decoder(schema).decode(raw(*values))


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


DEEP = [b"[" * 40_000, *(nested(depth) for depth in (1000, 1020, 1500, 40_000))]
PADDING = b'"pad":"' + b"x" * 400 + b'",'


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["short", "long"])
@pytest.mark.parametrize(
    ("text", "expected", "clipped"),
    [
        (b"NaN", np.nan, False),
        (b"null", np.nan, False),
        (b'"N/A"', np.nan, False),
        (b'" 28.7 "', 28.7, False),
        (b"true", 1.0, False),
        (b"Infinity", FLOAT32_MAX, True),
        (b"-Infinity", -FLOAT32_MAX, True),
        (b"1e400", FLOAT32_MAX, True),
        (b"1" * 5000, FLOAT32_MAX, True),
        (b"327267367867168100000", 327267367867168100000.0, False),
    ],
)
def test_a_value_means_the_same_whatever_parser_reads_it(
    padding: bytes, text: bytes, expected: float, clipped: bool
) -> None:
    batch = decode(b"{" + padding + b'"a":' + text + b',"b":2}').batch
    np.testing.assert_array_equal(batch.values, [[expected, 2.0]])
    assert batch.clipped.tolist() == [clipped]


@pytest.mark.parametrize("text", [b'"nan"', b'"inf"', b'"1_000"', b'"28,7"', b'"Bad"', b"{}", b"[1]", nested(1000)])
def test_what_is_no_number_is_a_bad_record_and_never_missing(text: bytes) -> None:
    decoded = decode(b'{"a":' + text + b',"b":2}', b'{"a":1,"b":2}')
    assert [(bad.record, bad.reason) for bad in decoded.bad] == [(0, Reason.NOT_A_NUMBER)]
    assert decoded.batch.values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "value",
    [b"", b" \n", b"{", b"nan", b"null", b"42", b'"ok"', b"{}", b"[]", b"\xff", b'{"a":nan,"b":1}', *DEEP],
)
def test_a_record_that_is_no_row_is_bad_and_the_next_is_read(value: bytes) -> None:
    decoded = decode(value, b'{"a":1,"b":2}')
    assert [bad.record for bad in decoded.bad] == [0]
    assert decoded.batch.record.tolist() == [1]
    assert len(dead_letters(decoded)) == 1


def test_depth_in_other_fields_never_raises() -> None:
    whole = b'{"id":123456789012345678901234567890,"k":' + nested(300) + b',"a":1,"b":2,"x":' + nested(1000) + b"}"
    assert len(decode(whole).batch) == 1


def test_a_null_value_is_skipped_and_counted() -> None:
    decoded = decode(None, b'{"a":1,"b":2}', None)
    assert (decoded.tombstones, decoded.bad, decoded.batch.record.tolist()) == (2, [], [1])


def test_whole_number_ids_and_keys_keep_every_digit() -> None:
    numbers = [2**53 + 1, 2**64 - 1, 2**63, 123456789012345678901234567890, -(2**70)]
    batch = decode(*(b'{"id":%d,"k":%d,"a":1,"b":2}' % (n, n) for n in numbers)).batch
    assert batch.ids == numbers
    assert batch.keys == [str(n).encode() for n in numbers]
    in_array = json.dumps([{"id": n, "a": 1, "b": 2} for n in numbers]).encode()
    assert decode(in_array).batch.ids == numbers


def test_long_keys_are_not_kept() -> None:
    key, short = b"k" * 100_000, b"short"
    before = sys.getrefcount(key)
    poll = raw(b'{"a":1,"b":2}', b'{"a":1,"b":2}')
    poll.keys = [key, short]
    numbers = make_decoder(RecordSchema(["a", "b"])).decode(poll).batch.sequences()
    assert numbers[0] != numbers[1]
    assert [key_hash(key), key_hash(short)] == [murmur2(key), murmur2(short)]
    del poll
    assert sys.getrefcount(key) == before


def test_a_record_of_many_rows_takes_no_more_than_its_share_of_time() -> None:
    ids = [10**20 + i for i in range(5000)]
    start = time.monotonic()
    decoded = decode(json.dumps([{"id": n, "k": n, "a": 1, "b": 2} for n in ids]).encode())
    assert decoded.batch.ids == ids
    assert decoded.batch.keys == [b"%d" % n for n in ids]
    assert time.monotonic() - start < 5.0


def test_half_a_surrogate_pair_costs_nothing_but_itself() -> None:
    batch = decode(b'{"id":"\\ud83d","k":"\\ud83d","x":"\\ud83d","a":1,"b":2}').batch
    assert batch.values.tolist() == [[1.0, 2.0]]
    assert batch.keys == [b"?"]


def test_good_rows_of_an_array_are_kept_and_the_bad_ones_named_once() -> None:
    decoded = decode(b'[{"a":1,"b":1},{"a":"x","b":1},{"a":3,"b":3},7]')
    assert decoded.batch.row.tolist() == [0, 2]
    assert decoded.batch.values[:, 0].tolist() == [1.0, 3.0]
    assert decoded.batch.ids == ["t-0-0-0", "t-0-0-2"]
    assert [bad.rows for bad in decoded.bad] == [[1, 3]]


@pytest.mark.parametrize("row", [b"1", b'{"a":"x"}'])
def test_a_record_of_nothing_but_bad_rows_is_told_of_in_few_words(row: bytes) -> None:
    record = b"[" + b",".join([row] * 60_000) + b"]"
    start = time.monotonic()
    decoded = decode(record)
    (bad,), (letter,) = decoded.bad, dead_letters(decoded)
    assert bad.rows == list(range(60_000))
    assert len(bad.message) < 200
    headers = dict(letter.headers)
    assert headers["stream_ad.errors.rows"] == b",".join(b"%d" % i for i in range(100))
    assert headers["stream_ad.errors.row_count"] == b"60000"
    assert sum(len(value or b"") for value in headers.values()) < 1000
    assert time.monotonic() - start < 5.0


def test_of_equal_keys_the_last_counts_in_both_parsers() -> None:
    batch = decode(b'{"a":9,"a":1,"b":2}', b'{"a":9,"a":1,"b":2,"x":NaN}').batch
    assert batch.values[:, 0].tolist() == [1.0, 1.0]


def test_dotted_names_are_paths_and_never_keys() -> None:
    schema = RecordSchema(["p.a", "p.b"])
    decoded = decode(b'{"p":{"a":1,"b":2},"p.a":950}', b'{"p.a":1,"p.b":2}', schema=schema)
    assert decoded.batch.values.tolist() == [[1.0, 2.0]]
    assert [bad.reason for bad in decoded.bad] == [Reason.NO_FEATURES]


def test_all_known_fields_null_is_a_row_and_no_known_field_is_none() -> None:
    decoded = decode(b'{"a":null}', b'{"x":1}')
    assert np.isnan(decoded.batch.values).all() and len(decoded.batch) == 1
    assert [bad.reason for bad in decoded.bad] == [Reason.NO_FEATURES]


def test_unusual_rows_do_not_change_their_neighbours() -> None:
    rows = [b'{"a":1,"b":2}', b'{"b":4}', b'{"a":"5","b":6}', b'{"b":8,"a":7}']
    together = decode(*rows).batch.values
    alone = np.concatenate([decode(row).batch.values for row in rows])
    np.testing.assert_array_equal(together, alone)


def test_vectors_are_cut_into_rows_and_wrong_lengths_refused() -> None:
    schema = RecordSchema(["a", "b"], format="float32", missing_values=[-99.9])
    vectors = np.array([[1, 2], [-99.9, np.inf]], "<f4")
    decoded = decode(vectors.tobytes(), vectors[0].tobytes(), b"", b"123", schema=schema)
    np.testing.assert_array_equal(decoded.batch.values, [[1, 2], [np.nan, FLOAT32_MAX], [1, 2]])
    assert decoded.batch.clipped.tolist() == [False, True, False]
    assert decoded.batch.ids == ["t-0-0-0", "t-0-0-1", "t-0-1"]
    assert [(bad.record, bad.reason) for bad in decoded.bad] == [(2, "wrong_length"), (3, "wrong_length")]


def test_dead_letters_keep_the_headers_that_were_there() -> None:
    old: list[tuple[str, bytes | None]] = [("x", None), ("x", b""), ("", b"u"), ("__connect.errors.topic", b"old")]
    [letter] = dead_letters(make_decoder(SCHEMA).decode(raw(b"{", headers=[old])))
    assert letter.headers[:4] == old
    assert ("__connect.errors.topic", b"t") in letter.headers[4:]
    assert (letter.key, letter.value, letter.reason) == (b"r", b"{", Reason.PARSE)


def test_the_fingerprint_is_that_of_names_and_order() -> None:
    assert RecordSchema(["a", "b"]).fingerprint == RecordSchema(["a", "b"], id="x").fingerprint
    assert RecordSchema(["a", "b"]).fingerprint != RecordSchema(["b", "a"]).fingerprint
    with pytest.raises(ValueError, match="twice"):
        RecordSchema(["a", "a"])
