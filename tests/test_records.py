"""What a record may be, what is missing, what is bad: every wire format by the same rules."""

from __future__ import annotations

import json
import logging
import math
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
import pytest

from stream_ad.records import (
    NO_TIMESTAMP,
    Decoded,
    FieldDrift,
    RawBatch,
    Reason,
    RecordSchema,
    Status,
    Verdicts,
    dead_letters,
    encode,
    format_timestamp,
    make_decoder,
)
from stream_ad.records.timestamps import ZoneInfo, parse_timestamp

FLOAT32_MAX = float(np.finfo(np.float32).max)


def raw(values: list[bytes | None], **changes: Any) -> RawBatch:
    n = len(values)
    columns: dict[str, Any] = {
        "keys": [None] * n,
        "headers": [()] * n,
        "timestamps": np.full(n, 1_930_000_000_000, np.int64),
        "topics": ["t"] * n,
        "partitions": np.full(n, 3, np.int32),
        "offsets": np.arange(100, 100 + n),
    }
    return RawBatch(values, **(columns | changes))


def decode(values: list[bytes | None], features: tuple[str, ...] = ("a", "b"), **schema: Any) -> Decoded:
    return make_decoder(RecordSchema(features, **schema)).decode(raw(values))


def reasons(decoded: Decoded) -> list[tuple[int, str]]:
    return [(bad.record, bad.reason) for bad in decoded.bad]


def test_fields_by_name_in_any_order_with_others_between() -> None:
    decoded = decode([b'{"a": 1, "b": 2.5}', b'{"x": [1], "b": 4, "a": 3}'])
    assert decoded.batch.values.tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert decoded.batch.ids == ["t-3-100", "t-3-101"]
    assert decoded.batch.row.tolist() == [-1, -1]


@pytest.mark.parametrize("text", ["null", "NaN", '""', '"  "', '"N/A"', '"NULL"', '"NaN"', "-9999"])
def test_what_means_no_reading(text: str) -> None:
    decoded = decode([b'{"a": %s, "b": 2}' % text.encode()], missing_values=[-9999])
    assert np.isnan(decoded.batch.values[0]).tolist() == [True, False]
    assert decoded.bad == []


def test_an_absent_field_is_missing() -> None:
    assert np.isnan(decode([b'{"b": 2}']).batch.values[0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "number"),
    [("true", 1.0), ("false", 0.0), ('" 12.5 "', 12.5), ('"-3e2"', -300.0), ('".5"', 0.5), ("7", 7.0)],
)
def test_what_is_a_number(text: str, number: float) -> None:
    assert decode([b'{"a": %s, "b": 2}' % text.encode()]).batch.values[0, 0] == number


@pytest.mark.parametrize(
    "text", ['"nan"', '"inf"', '"1_000"', '"0x10"', '"12,5"', '"Bad"', "[1]", '{"v": 1}', '"\\u0661"', '"1 2"']
)
def test_what_is_neither_is_a_bad_record_never_a_missing_value(text: str) -> None:
    decoded = decode([b'{"a": %s, "b": 2}' % text.encode(), b'{"a": 1, "b": 2}'])
    assert reasons(decoded) == [(0, Reason.NOT_A_NUMBER)]
    assert decoded.bad[0].message.startswith("a is no number")
    assert len(decoded.batch) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("Infinity", FLOAT32_MAX), ("-Infinity", -FLOAT32_MAX), ("1e39", FLOAT32_MAX), ("-1e300", -FLOAT32_MAX)],
)
def test_what_float32_cannot_hold_is_clipped_and_marked(text: str, value: float) -> None:
    batch = decode([b'{"a": %s, "b": 2}' % text.encode(), b'{"a": 1, "b": 2}']).batch
    assert batch.values[0, 0] == value
    assert batch.clipped.tolist() == [True, False]


def test_a_whole_number_of_four_hundred_digits_is_clipped_too() -> None:
    batch = decode([b'{"a": 1%s, "b": 2}' % (b"0" * 400)]).batch
    assert batch.values[0, 0] == FLOAT32_MAX
    assert batch.clipped[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.PARSE),
        (b"   ", Reason.PARSE),
        (b"{", Reason.PARSE),
        (b'{"a": nan}', Reason.PARSE),
        (b'{"a": 1}{"a": 2}', Reason.PARSE),
        (b"\xff\xfe", Reason.PARSE),
        (b"null", Reason.NOT_AN_OBJECT),
        (b"42", Reason.NOT_AN_OBJECT),
        (b'"ok"', Reason.NOT_AN_OBJECT),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"{}", Reason.NO_FEATURES),
        (b'{"humidity": 3}', Reason.NO_FEATURES),
    ],
)
def test_records_that_cannot_be_used(value: bytes, reason: str) -> None:
    decoded = decode([b'{"a": 1, "b": 2}', value, b'{"a": 3, "b": 4}'])
    assert reasons(decoded) == [(1, reason)]
    assert decoded.batch.values[:, 0].tolist() == [1.0, 3.0]
    assert decoded.batch.ids == ["t-3-100", "t-3-102"]


def test_a_row_of_nothing_but_missing_values_is_no_bad_record() -> None:
    decoded = decode([b'{"a": null}'])
    assert decoded.bad == []
    assert np.isnan(decoded.batch.values).all()


def test_tombstones_are_counted_not_decoded() -> None:
    decoded = decode([None, b'{"a": 1, "b": 2}', None])
    assert decoded.tombstones == 2
    assert decoded.bad == []
    assert decoded.batch.record.tolist() == [1]


def test_a_poll_without_one_good_record() -> None:
    decoded = decode([b"{", None])
    assert decoded.batch.values.shape == (0, 2)
    assert len(decoded.bad) == 1


@pytest.mark.parametrize("depth", [30, 1500, 40_000])
def test_deep_nesting_never_escapes(depth: int) -> None:
    deep = b'{"a": 1, "b": 2, "x": ' + b"[" * depth + b"]" * depth + b"}"
    decoded = decode([deep, b'{"a": 3, "b": 4}'])
    assert len(decoded.batch) + len(decoded.bad) == 2
    assert decoded.batch.values[-1].tolist() == [3.0, 4.0]
    assert (depth > 30) or len(decoded.batch) == 2


@pytest.mark.parametrize("other", ["1", "NaN"])
def test_of_a_key_that_stands_twice_the_last_counts_by_every_parser(other: str) -> None:
    decoded = decode([b'{"a": 5, "b": %s, "a": 950}' % other.encode()])
    assert decoded.batch.values[0, 0] == 950.0


def test_paths_lead_into_objects_and_a_key_with_dots_does_not_count() -> None:
    features = ("data.pump.a", "data.b")
    good = b'{"data": {"pump": {"a": 1}, "b": 2}, "data.b": 99}'
    decoded = decode([good, b'{"data": {"pump": {"a": {"value": 1}}, "b": 2}}', b'{"data": "{}"}'], features)
    assert decoded.batch.values.tolist() == [[1.0, 2.0]]
    assert reasons(decoded) == [(1, Reason.NOT_A_NUMBER), (2, Reason.NO_FEATURES)]


def test_all_features_in_one_array_field() -> None:
    values: list[bytes | None] = [
        b'{"v": {"x": [1, null]}}',
        b'{"v": {"x": [1, 2, 3]}}',
        b'{"v": {"x": 7}}',
        b'{"w": 1}',
    ]
    decoded = decode(values, array_field="v.x")
    assert decoded.batch.values[0, 0] == 1.0
    assert np.isnan(decoded.batch.values[0, 1])
    assert reasons(decoded) == [(1, Reason.WRONG_LENGTH), (2, Reason.NOT_A_NUMBER), (3, Reason.NO_FEATURES)]


def test_of_an_array_of_rows_the_good_ones_are_kept_and_one_letter_names_the_bad() -> None:
    rows = b'[{"a": 1, "b": 1}, {"a": "broken", "b": 2}, {"a": 3, "b": 3}, 17, {"a": 5, "b": 5}]'
    decoded = decode([rows, b'{"a": 9, "b": 9}'])
    assert decoded.batch.values[:, 0].tolist() == [1.0, 3.0, 5.0, 9.0]
    assert decoded.batch.row.tolist() == [0, 2, 4, -1]
    assert decoded.batch.ids == ["t-3-100-0", "t-3-100-2", "t-3-100-4", "t-3-101"]
    (letter,) = dead_letters(decoded)
    assert letter.value == rows
    assert dict(letter.headers)["stream_ad.errors.rows"] == b"1,3"


def test_a_byte_order_mark_is_no_part_of_the_record() -> None:
    assert decode([b'\xef\xbb\xbf{"a": 1, "b": 2}']).batch.values.tolist() == [[1.0, 2.0]]


def test_usual_and_unusual_records_of_one_poll_agree() -> None:
    plain = [{"a": float(i), "b": i / 7} for i in range(50)]
    alone = decode([orjson.dumps(row) for row in plain]).batch.values
    mixed = decode([*(orjson.dumps(row) for row in plain), b'{"a": "4", "b": NaN}']).batch.values
    np.testing.assert_array_equal(mixed[:50], alone)


@pytest.mark.parametrize(
    "text", ["9007199254740993", "18446744073709551615", "123456789012345678901234567890", "-9007199254740993", "0"]
)
def test_ids_come_out_digit_for_digit(text: str) -> None:
    decoded = decode([b'{"id": %s, "a": 1, "b": 2}' % text.encode()], id="id")
    assert str(decoded.batch.ids[0]) == text
    (output,) = encode(decoded.batch, plain_verdicts(1), RecordSchema(("a", "b")))
    assert f'"id":{text},'.encode() in output


def test_key_from_a_field_or_from_the_record() -> None:
    batch = raw([b'{"k": "x", "a": 1}', b'{"k": 7, "a": 1}', b'{"a": 1}'], keys=[b"r0", b"r1", b"r2"])
    assert make_decoder(RecordSchema(("a",))).decode(batch).batch.keys == [b"r0", b"r1", b"r2"]
    assert make_decoder(RecordSchema(("a",), key="k")).decode(batch).batch.keys == [b"x", b"7", b"r2"]


def test_float32_vectors_one_or_many_to_a_record() -> None:
    rows = np.array([[1, 2], [np.nan, 4], [np.inf, 6]], "<f4")
    values = [rows[:1].tobytes(), rows[1:].tobytes(), b"", b"\0" * 7, None]
    decoded = decode(values, format="float32")
    assert decoded.batch.values[0].tolist() == [1.0, 2.0]
    assert math.isnan(decoded.batch.values[1, 0])
    assert decoded.batch.values[2, 0] == FLOAT32_MAX
    assert decoded.batch.clipped.tolist() == [False, False, True]
    assert decoded.batch.ids == ["t-3-100", "t-3-101-0", "t-3-101-1"]
    assert reasons(decoded) == [(2, Reason.WRONG_LENGTH), (3, Reason.WRONG_LENGTH)]
    assert decoded.tombstones == 1


def test_the_fingerprint_follows_names_and_order() -> None:
    assert RecordSchema(("a", "b")).fingerprint != RecordSchema(("b", "a")).fingerprint
    assert RecordSchema(("a", "b")).fingerprint != RecordSchema(("ab",)).fingerprint
    assert RecordSchema(["a", "b"], missing_values=[1]).fingerprint == RecordSchema(("a", "b")).fingerprint


def test_dead_letters_keep_the_old_headers_first() -> None:
    old = [("h", b"1"), ("empty", None), ("h", b"2"), ("__connect.errors.topic", b"elsewhere")]
    decoded = make_decoder(RecordSchema(("a",))).decode(raw([b"{"], headers=[old], keys=[b"\xff"]))
    (letter,) = dead_letters(decoded)
    assert letter.headers[:4] == old
    assert letter.headers[4] == ("__connect.errors.topic", b"t")
    assert (letter.key, letter.value, letter.offset) == (b"\xff", b"{", 100)


def test_a_renamed_field_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    schema = RecordSchema(("pressure_kpa", "flow"))
    decoder = make_decoder(schema)
    drift = FieldDrift(schema, decoder)
    with caplog.at_level(logging.WARNING):
        drift.observe(decoder.decode(raw([b'{"pressure_kpa": 270, "flow": 1, "note": 0}'] * 6)).batch)
        for _ in range(100):
            drift.observe(decoder.decode(raw([b'{"pressure_bar": 2.7, "flow": 1, "note": 0}'] * 2)).batch)
    assert len(caplog.records) == 1
    assert "pressure_kpa" in caplog.text
    assert "pressure_bar" in caplog.text
    assert "note" not in caplog.text, "that was there before"


def plain_verdicts(n: int, flagged: tuple[int, ...] = ()) -> Verdicts:
    score = np.full(n, 0.25)
    score[list(flagged)] = 2.0
    k = len(flagged)
    return Verdicts(
        status=np.zeros(n, np.uint8),
        score=score,
        p_value=np.full(n, 0.5),
        is_anomaly=score >= 1.0,
        flagged=np.array(flagged, np.int64),
        expected=np.tile([1.0, 2.0], (k, 1)),
        attribution=np.tile([0.25, 0.75], (k, 1)),
        imputed=np.zeros(n, np.bool_),
        model="m1",
    )


def strict(text: bytes) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"bare {name} in the output")

    return json.loads(text, parse_constant=refuse)


def test_an_output_record() -> None:
    batch = decode([b'{"a": 1, "b": 2}', b'{"a": null, "b": 9}']).batch
    plain, flagged = map(strict, encode(batch, plain_verdicts(2, (1,)), RecordSchema(("a", "b"))))
    assert plain == {
        "schema_version": 1,
        "id": "t-3-100",
        "key": None,
        "timestamp": "2031-02-27T23:06:40.000Z",
        "status": "scored",
        "score": 0.25,
        "p_value": 0.5,
        "is_anomaly": False,
        "model": "m1",
        "source": {"topic": "t", "partition": 3, "offset": 100},
    }
    assert flagged["is_anomaly"]
    assert flagged["expected"] == {"a": 1.0, "b": 2.0}
    assert flagged["attribution"] == {"a": 0.25, "b": 0.75}
    assert flagged["imputed"] == ["a"]


def test_an_unscored_row_has_null_where_there_is_no_number() -> None:
    verdicts = plain_verdicts(1)
    verdicts.status[0], verdicts.score[0], verdicts.p_value[0], verdicts.model = Status.UNSCORED, np.nan, np.nan, None
    (output,) = map(strict, encode(decode([b'{"a": null}']).batch, verdicts, RecordSchema(("a", "b"))))
    assert (output["status"], output["score"], output["p_value"], output["model"]) == ("unscored", None, None, None)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (None, {"key": None}),
        (b"", {"key": ""}),
        ("ü".encode(), {"key": "ü"}),
        (b"\xff", {"key": "/w==", "key_encoding": "base64"}),
    ],
)
def test_keys_that_are_no_text_are_marked(key: bytes | None, shown: dict[str, Any]) -> None:
    batch = make_decoder(RecordSchema(("a", "b"))).decode(raw([b'{"a": 1, "b": 2}'], keys=[key])).batch
    (output,) = map(strict, encode(batch, plain_verdicts(1), RecordSchema(("a", "b"))))
    assert {name: value for name, value in output.items() if name.startswith("key")} == shown


MOMENT = 1_930_381_200_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_930_381_200, MOMENT),
        (1_930_381_200.25, MOMENT + 250),
        (1_930_381_200_000, MOMENT),
        (1_930_381_200_000_000, MOMENT),
        (1_930_381_200_000_000_000, MOMENT),
        ("1930381200", MOMENT),
        ("2031-03-04T09:00:00Z", MOMENT),
        ("2031-03-04T10:00:00+01:00", MOMENT),
        ("2031-03-04 09:00:00", MOMENT),
        ("2031-03-04T09:00:00.123456789Z", MOMENT + 123),
        ("20310304T090000Z", MOMENT),
        ("20310304T100000+0100", MOMENT),
        ("20310304", MOMENT - 9 * 3_600_000),
        ("2031-03-04T09:00:00z", MOMENT),
        ("20319999", 20_319_999_000),
        ("1712111230123", 1_712_111_230_123),
        ("1930381200.25", MOMENT + 250),
        ("1_000", None),
        ("١٩٣٠٣٨١٢٠٠", None),
        ("inf", None),
        ("1e400", None),
        (0, 0),
        (-1, None),
        (True, None),
        (None, None),
        ("yesterday", None),
        ("03/04/2031 09:00", None),
        (math.nan, None),
        (math.inf, None),
        ([], None),
    ],
)
def test_time_stamps(value: object, expected: int | None) -> None:
    assert parse_timestamp(value, "auto", ZoneInfo("UTC")) == expected


def test_a_declared_unit_is_not_second_guessed() -> None:
    assert parse_timestamp(5_000, "ms", ZoneInfo("UTC")) == 5_000
    assert parse_timestamp(5_000, "auto", ZoneInfo("UTC")) == 5_000_000
    assert parse_timestamp("20310304", "ms", ZoneInfo("UTC")) == 20_310_304


def test_texts_without_a_zone_are_in_the_configured_one() -> None:
    assert parse_timestamp("2031-03-04T10:00:00", "auto", ZoneInfo("Europe/Vienna")) == MOMENT


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"])
def test_the_ends_of_time_do_not_raise(text: str) -> None:
    parsed = parse_timestamp(text, "auto", ZoneInfo("UTC"))
    assert parsed is None or format_timestamp(parsed) is None or format_timestamp(parsed)[:4] in ("0001", "9999")


def test_no_time_stamp_is_null() -> None:
    assert format_timestamp(NO_TIMESTAMP) is None
    assert format_timestamp(MOMENT + 7) == "2031-03-04T09:00:00.007Z"


def test_a_bad_time_stamp_costs_the_stamp_not_the_record() -> None:
    decoded = decode([b'{"a": 1, "ts": "soon"}', b'{"a": 1, "ts": 1930381200}', b'{"a": 1}'], ("a",), timestamp="ts")
    assert decoded.batch.timestamps.tolist() == [NO_TIMESTAMP, MOMENT, NO_TIMESTAMP]
    assert decoded.bad_timestamps == 2
    assert len(decoded.batch) == 3


def test_rows_of_one_key_have_one_sequence_and_those_without_one_that_of_their_partition() -> None:
    records = raw(
        [b'{"a": 1, "b": 2}'] * 6,
        keys=[b"pump", None, b"fan", b"pump", None, None],
        partitions=np.array([3, 3, 3, 4, 3, 4], np.int32),
    )
    sequence = make_decoder(RecordSchema(("a", "b"))).decode(records).batch.sequences().tolist()
    assert sequence[0] == sequence[3], "a key is the same on every partition"
    assert sequence[1] == sequence[4]
    assert len(set(sequence)) == 4
    assert sequence[0] == int.from_bytes(blake2b(b"pump", digest_size=8).digest(), "little", signed=True), (
        "a window that is kept is read by the next process"
    )
