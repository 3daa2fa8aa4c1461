"""Files as source and sink."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_ad import config
from stream_ad.records import DeadLetter, Decoded, RecordSchema, format_timestamp, make_decoder
from stream_ad.transports import ConfigurationError, DeliveryError, make_sink
from stream_ad.transports.file import FileSink, FileSource

SCHEMA = RecordSchema(["a", "b"], timestamp="ts")


def source(path: Path, **settings: Any) -> FileSource:
    made = FileSource(config.FileSource(type="file", path=str(path), **settings), SCHEMA)
    made.open()
    return made


def values(path: Path, **settings: Any) -> list[bytes | None]:
    reader = source(path, **settings)
    found: list[bytes | None] = []
    while not reader.exhausted:
        found += reader.poll(0.0).values
    reader.close()
    return found


def read(path: Path, **settings: Any) -> Decoded:
    reader = source(path, **settings)
    decoded = make_decoder(SCHEMA).decode(reader.poll(0.0))
    reader.close()
    return decoded


def csv_file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    return path


def test_byte_order_mark_quotes_and_line_ends_make_no_difference(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'\xef\xbb\xbf"a",b\r\n1,"2"\r\n3,NAN\r\n')
    np.testing.assert_array_equal(read(path).batch.values, [[1, 2], [3, np.nan]])
    packed = tmp_path / "y.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert values(packed) == values(path)


def test_one_stray_quote_costs_one_line(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'a,b\n1,2\n"3,4\n' + b"5,6\n" * 40_000)
    found = values(path)
    assert len(found) == 40_002
    assert json.loads(found[1] or b"") == ['"3,4']


@pytest.mark.parametrize("cell", ['"12 inch pipe', '"'])
def test_two_stray_quotes_cost_two_lines(tmp_path: Path, cell: str) -> None:
    rows = [f"{i},{i},plain" for i in range(600)]
    rows[100], rows[400] = f"100,100,{cell},", f"400,400,{cell},"
    schema = RecordSchema(["a", "b"], id="a")
    path = csv_file(tmp_path, "\n".join(["a,b,note,", *rows]).encode())
    reader = FileSource(config.FileSource(type="file", path=str(path)), schema)
    reader.open()
    decoded = make_decoder(schema).decode(reader.poll(0.0))
    assert decoded.batch.ids == [str(i) for i in range(600) if i not in (100, 400)]
    assert [bad.record for bad in decoded.bad] == [100, 400]


def test_quotes_that_are_not_doubled_cost_nothing_where_cells_can_be_told_apart(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'note,a,b\n"12" pipe",1,2\n"x" ,3,4\n')
    assert read(path).batch.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", [b'"one, with\ncommas, in,\nit ""quoted"""', b'"\n\n\n"', b'""', b'"a\nb\nc",'])
def test_quoted_line_ends_commas_and_quotes_are_text(tmp_path: Path, text: bytes) -> None:
    path = csv_file(tmp_path, b"a,b,note\n1,2," + text + b"\n3,4,x\n")
    assert read(path).batch.values.tolist() == [[1, 2], [3, 4]]


def test_a_cell_may_hold_a_line_end(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'note,and,more\na,b,note\n1,2,"two\nlines"\n3,4,x\n')
    assert read(path, header_line=2).batch.values.tolist() == [[1, 2], [3, 4]]


def test_a_ragged_row_is_bad_but_empty_cells_at_its_end_are_not(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"a,b\n1,2\n3,4,5\n6\n7,8,\n")
    decoded = read(path)
    assert decoded.batch.values.tolist() == [[1, 2], [7, 8]]
    assert [bad.record for bad in decoded.bad] == [1, 2]


def test_a_row_of_another_width_says_both_widths(tmp_path: Path) -> None:
    bad = read(csv_file(tmp_path, b"a,b\n1,2\n3,4,5\n6\n" + b"7," + b"8" * 200_000 + b'\n"7,8\n')).bad
    assert [one.message for one in bad] == [
        "3 cells, the header has 2",
        "1 cell, the header has 2",
        "a cell of more than 131072 characters",
        "1 cell, the header has 2; a quote in it is not closed: '\"7,8'",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"a,b,\n1,2\n3,4\n",
        b"a,b\n1,2,\n3,4,\n",
        b"a,b,,\n1,2,unnamed,\n3,4\n",
        b" a ,\tb\n1,2\n3,4\n",
        b'"a" , b\n1,2\n3,4\n',
        b"\n\na,b\n1,2\n3,4\n",
        b"a,b\n1,2\na,b\n3,4\n",
    ],
)
def test_a_header_with_blanks_or_delimiters_around_its_names_is_that_header(tmp_path: Path, data: bytes) -> None:
    decoded = read(csv_file(tmp_path, data))
    assert decoded.batch.values.tolist() == [[1, 2], [3, 4]]
    assert not decoded.bad


def test_a_name_with_blanks_that_the_schema_has_too_is_that_column(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"a, b\n1,2\n")
    reader = FileSource(config.FileSource(type="file", path=str(path)), RecordSchema(["a", " b"]))
    reader.open()
    assert json.loads(reader.poll(0.0).values[0] or b"") == {"a": "1", " b": "2"}


def test_lines_around_the_header_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'logger "7\n\n"plant\n\na,b\n\nm,s\n1,2\n')
    assert read(path, header_line=5, skip_after_header=2).batch.values.tolist() == [[1, 2]]
    with pytest.raises(ConfigurationError, match="line 5 looks like the header: --header-line 5"):
        source(path)


@pytest.mark.parametrize(("header", "typed"), [("a\tb", r"'\t'"), ("a|b", "'|'")])
def test_the_advice_for_another_delimiter_can_be_typed(tmp_path: Path, header: str, typed: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"--delimiter {typed} (source.delimiter")):
        source(csv_file(tmp_path, f"{header}\n1,2\n".encode()))
    with pytest.raises(ConfigurationError, match=re.escape(f"--delimiter {typed} --header-line 2 (source.delimiter")):
        source(csv_file(tmp_path, f"title\n{header}\n1,2\n".encode()))


@pytest.mark.parametrize("name", ["ts", "a"])
def test_a_column_that_is_used_must_be_there_once(tmp_path: Path, name: str) -> None:
    columns = [name, "a", "b", "ts"]
    with pytest.raises(ConfigurationError, match=f"column {name} appears twice, at 1 and"):
        source(csv_file(tmp_path, ",".join(columns).encode() + b"\n1,2,3,4\n"))
    pq.write_table(pa.table([pa.array([1.0])] * 4, names=columns), tmp_path / "x.parquet")
    with pytest.raises(ConfigurationError, match=f"column {name} appears twice, at 1 and"):
        source(tmp_path / "x.parquet")


def test_a_time_column_that_is_missing_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), tmp_path / "x.parquet")
    for path in (csv_file(tmp_path, b"a,b\n1,2\n"), tmp_path / "x.parquet"):
        caplog.clear()
        assert len(read(path).batch) == 1
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            f"{path} lacks the columns ts (schema.timestamp): its rows go without"
        ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,b,a\n1,2,3\n", "a appears twice, at 1 and 3"),
        (b"a;b\n1;2\n", "delimiter"),
        (b"logger\na,b\n1,2\n", "line 2 looks like the header"),
        (b"a,b\ndegC,kPa\n1,2\n", "skip-after-header"),
        (b'a,b\n"28,7",1\n', "28,7"),
    ],
)
def test_a_file_of_another_dialect_stops_with_what_to_do(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        source(csv_file(tmp_path, data))


def test_following_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'a,b,note\n1,2,x\n3,4,"op')
    reader = source(path, follow=True)
    assert len(reader.poll(0.0)) == 1
    with path.open("ab") as file:
        file.write(b"en\n")
    assert len(reader.poll(0.0)) == 0
    with path.open("ab") as file:
        file.write(b'end"\n')
    batch = reader.poll(0.0)
    assert json.loads(batch.values[0] or b"")["note"] == "open\nend"
    assert batch.offsets.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("x.jsonl", b'{"a":1,"b":1}\n{"a":2,"b":2}\n{"a":', b'{"a":"3","b":"3"}\n'),
        ("x.csv", b"a,b\n1,1\n2,2\n3,", b"a,b\n3,3\n"),
    ],
)
def test_a_followed_file_that_is_begun_anew_is_read_from_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, before: bytes, after: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(before)
    reader = source(path, follow=True)
    assert len(reader.poll(0.0)) == 2
    caplog.clear()
    path.write_bytes(after)
    found = [value for _ in range(4) for value in reader.poll(0.0).values]
    assert found == [b'{"a":"3","b":"3"}']
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is read from its beginning" in caplog.text


@pytest.mark.parametrize("data", [b"", b"a,b\n"])
def test_nothing_in_the_file_is_no_error(tmp_path: Path, data: bytes) -> None:
    assert values(csv_file(tmp_path, data)) == []


def test_damage_inside_a_compressed_file_stops(tmp_path: Path) -> None:
    packed = gzip.compress(b"a,b\n1,2\n3,4\n")
    no_such_block = packed[:10] + b"\xff" * 100
    path = tmp_path / "x.csv.gz"
    path.write_bytes(packed + no_such_block)
    with pytest.raises(ConfigurationError, match="cannot be read: Error -3"):
        values(path)


def test_what_the_system_refuses_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: File name too long"):
        source(tmp_path / ("x" * 300 + ".csv"))

    def denied(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        source(csv_file(tmp_path, b"a,b\n1,2\n"))


def test_a_file_may_have_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.csv"))
    path.write_bytes(b"a,b,ts\n1,2,0\n")
    batch = read(path).batch
    assert batch.ids == ["caf\ufffd.csv-0-0"]
    assert len(batch.sequences()) == 1


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    vienna = pa.timestamp("ns", "Europe/Vienna")
    table = {
        "a": pa.array([np.inf, None, 2.5]),
        "b": pa.array(["1", "2", "3"]).dictionary_encode(),
        "ts": pa.array([1930381200123456789, None, 0], vienna),
        "unused": pa.array([2**62] * 3, pa.timestamp("us")),
    }
    pq.write_table(pa.table(table), path)
    batch = read(path).batch
    assert batch.clipped.tolist() == [True, False, False]
    assert np.isnan(batch.values[1, 0]) and batch.values[2].tolist() == [2.5, 3.0]
    assert format_timestamp(int(batch.timestamps[0])) == "2031-03-04T09:00:00.123Z"


NANOSECONDS = pa.array([1_000_000_123], pa.timestamp("ns"))
TIMES = {
    "time": pa.array([1_000_000_123], pa.time64("ns")),
    "duration": pa.array([1_000_000_123], pa.duration("ns")),
    "date": pa.array([10**8], pa.date32()),
    "moment": pa.array([2**62], pa.timestamp("us")),
    "dictionary": NANOSECONDS.dictionary_encode(),
    "struct": pa.StructArray.from_arrays([NANOSECONDS, pa.array([1.5])], ["t", "x"]),
    "list": pa.array([[1_000_000_123]], pa.list_(pa.timestamp("ns"))),
    "fixed": pa.array([[1_000_000_123]], pa.list_(pa.timestamp("ns"), 1)),
    "large": pa.array([[1_000_000_123]], pa.large_list(pa.time64("ns"))),
    "map": pa.array([[("x", 1_000_000_123)]], pa.map_(pa.string(), pa.duration("ns"))),
}


@pytest.mark.parametrize("name", TIMES)
def test_no_parquet_column_of_times_costs_a_row(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"a": [1.0], "b": [2.0], "ts": TIMES[name]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").batch.values.tolist() == [[1, 2]]


def test_parquet_times_keep_their_nanoseconds_as_texts(tmp_path: Path) -> None:
    columns = {name: TIMES[name] for name in ("time", "dictionary", "struct", "list")}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    reader = FileSource(config.FileSource(type="file", path=str(tmp_path / "x.parquet")), RecordSchema(list(columns)))
    reader.open()
    assert json.loads(reader.poll(0.0).values[0] or b"") == {
        "time": "00:00:01.000000123",
        "dictionary": "1970-01-01T00:00:01.000",
        "struct": {"t": "1970-01-01 00:00:01.000000123", "x": 1.5},
        "list": ["1970-01-01 00:00:01.000000123"],
    }


def test_a_damaged_page_of_parquet_stops(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": np.arange(999.0), "b": np.arange(999.0)}), path, compression="snappy")
    page = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[page + 30 : page + 60] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        source(path)


def test_parquet_with_a_column_twice_stops(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table([pa.array([1.0])] * 3, names=["a", "b", "a"]), path)
    with pytest.raises(ConfigurationError, match="a appears twice"):
        source(path)


def sink_config(tmp_path: Path, kind: dict[str, Any]) -> config.Config:
    return config.Config.model_validate(
        {"source": kind, "schema": {"features": ["a"]}, "sink": {"type": "file", "path": str(tmp_path / "out.jsonl")}}
    )


def write_once(settings: config.Config, value: bytes) -> None:
    sink = make_sink(settings)
    sink.open()
    sink.write([None], [value])
    sink.flush()
    sink.close()


def test_outputs_of_a_stream_survive_a_restart(tmp_path: Path) -> None:
    settings = sink_config(tmp_path, {"type": "kafka", "topics": ["t"]})
    write_once(settings, b"1")
    write_once(settings, b"2")
    assert (tmp_path / "out.jsonl").read_bytes() == b"1\n2\n"


def test_a_file_is_scored_anew_and_stale_dead_letters_go(tmp_path: Path) -> None:
    settings = sink_config(tmp_path, {"type": "file", "path": str(tmp_path / "in.jsonl")})
    stale = tmp_path / "out.dead-letters.jsonl"
    stale.write_text("old")
    write_once(settings, b"1")
    write_once(settings, b"2")
    assert (tmp_path / "out.jsonl").read_bytes() == b"2\n"
    assert not stale.exists()


def test_the_input_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"a":1}\n')
    with pytest.raises(ConfigurationError, match="the file that is read"):
        make_sink(sink_config(tmp_path, {"type": "file", "path": str(path)}))
    assert path.read_bytes() == b'{"a":1}\n'


@pytest.mark.parametrize("name", ["out.dead-letters.jsonl", "out.episodes.jsonl", "hard-link.jsonl"])
def test_no_file_beside_the_scores_is_the_input(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"a":1}\n')
    if name.startswith("hard"):
        (tmp_path / "out.jsonl").hardlink_to(path)
    settings = sink_config(tmp_path, {"type": "file", "path": str(path)})
    settings = settings.model_copy(update={"alerts": config.Alerts(emit="episodes")})
    with pytest.raises(ConfigurationError, match="the file that is read"):
        make_sink(settings)
    assert path.read_bytes() == b'{"a":1}\n'


def test_outputs_stay_until_there_are_others(tmp_path: Path) -> None:
    settings = sink_config(tmp_path, {"type": "file", "path": str(tmp_path / "in.jsonl")})
    kept = {tmp_path / "out.jsonl": "yesterday", tmp_path / "out.dead-letters.jsonl": "its bad ones"}
    for path, text in kept.items():
        path.write_text(text)
    sink = make_sink(settings)
    sink.open()
    sink.close()
    assert {path: path.read_text() for path in tmp_path.iterdir()} == kept


def test_looking_whether_outputs_can_be_written_makes_none(tmp_path: Path) -> None:
    sink = make_sink(sink_config(tmp_path, {"type": "file", "path": str(tmp_path / "in.jsonl")}))
    sink.open()
    sink.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_no_rows_make_an_empty_output(tmp_path: Path, name: str) -> None:
    path, stale = tmp_path / name, tmp_path / "out.dead-letters.jsonl"
    path.write_bytes(b"old")
    stale.write_bytes(b"old")
    sink = FileSink(config.FileSink(type="file", path=str(path)))
    sink.open()
    sink.flush()
    sink.close()
    written = path.read_bytes()
    assert (gzip.decompress(written) if name.endswith(".gz") else written) == b""
    assert not stale.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_full_disk_is_told_once(size: int) -> None:
    sink = FileSink(config.FileSink(type="file", path="/dev/full"))
    sink.open()
    with pytest.raises(DeliveryError, match="/dev/full cannot be written: No space left"):
        sink.write([None], [b"1" * size])
        sink.flush()
    sink.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize("kind", ["dead-letters", "episodes"])
def test_a_full_disk_is_told_of_by_the_files_beside(tmp_path: Path, kind: str) -> None:
    sink = FileSink(config.FileSink(type="file", path=str(tmp_path / "out.jsonl")), append=True, episodes=True)
    (tmp_path / f"out.{kind}.jsonl").symlink_to("/dev/full")
    sink.open()
    with pytest.raises(DeliveryError, match=f"{kind}.jsonl cannot be written: No space left"):
        if kind == "episodes":
            sink.write_alerts([None], [b"1" * 1_000_000])
        else:
            sink.write_dead_letters([DeadLetter(None, b"1" * 1_000_000, [], 0, "parse", "t", 0, 0)])
    sink.close()
