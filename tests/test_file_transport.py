"""Files as source and sink: dialects, what is refused, and that nothing is passed over in silence."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_ad import config
from stream_ad.records import DeadLetter, Decoded, RecordSchema, make_decoder
from stream_ad.transports import ConfigurationError
from stream_ad.transports.csv_rows import CsvReader
from stream_ad.transports.file import FileSink, FileSource
from stream_ad.transports.kafka_header_names import HeaderName

SCHEMA = RecordSchema(("temp", "flow"), id="id")


def source(path: Path, schema: RecordSchema = SCHEMA, **options: Any) -> FileSource:
    opened = FileSource(config.FileSource(type="file", path=str(path), **options), schema)
    opened.open()
    return opened


def read(path: Path, schema: RecordSchema = SCHEMA, **options: Any) -> Decoded:
    """All rows of a small file, decoded."""
    opened = source(path, schema, **options)
    decoded = make_decoder(schema).decode(opened.poll(0.0))
    assert len(opened.poll(0.0)) == 0
    assert opened.exhausted
    return decoded


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_by_column_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "flow,id,temp,other\n2,a,1,x\n4,b,,y\n")
    batch = read(path).batch
    assert batch.ids == ["a", "b"]
    np.testing.assert_array_equal(batch.values, [[1.0, 2.0], [np.nan, 4.0]])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_belongs_to_no_column(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "x.csv", b"\xef\xbb\xbf" + f'"temp","flow"{end}1,2{end}'.encode())
    assert read(path).batch.values.tolist() == [[1.0, 2.0]]


def test_quoted_cells_may_hold_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'note,temp,flow\n"two\nlines, one cell",1,2\nplain,3,4\n')
    assert read(path).batch.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_csv_reader_says_on_which_lines_its_rows_stand() -> None:
    lines = [b"", b'a,"two', b'lines"', b"", b'"stray,1', b"3,4"]
    reader = CsvReader(iter(lines), config.FileSource(type="file", path="x.csv"))
    rows = []
    while row := reader.next_row():
        rows.append((row, reader.row_lines))
    assert rows == [(["a", "two\nlines"], (2, 3)), (['"stray,1'], (5, 5)), (["3", "4"], (6, 6))]


def test_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv.gz", gzip.compress(b"temp,flow\n1,2\n"))
    assert read(path).batch.values.tolist() == [[1.0, 2.0]]
    path = write(tmp_path / "x.jsonl.gz", gzip.compress(b'{"temp": 1, "flow": 2}\n'))
    assert read(path).batch.values.tolist() == [[1.0, 2.0]]


def test_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "temp;flow\n28,7;1,5\n")
    assert read(path, delimiter=";", decimal_comma=True).batch.values.tolist() == [[28.7, 1.5]]


def test_decimal_commas_without_the_option_are_refused_with_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "temp;flow\n28,7;1,5\n")
    with pytest.raises(ConfigurationError, match=r"row 1, column temp holds '28,7'.*--decimal-comma"):
        source(path, delimiter=";")
    with pytest.raises(ConfigurationError, match="--delimiter ';'"):
        source(path)


LOGGER = "TOA5,station 7,CR1000\nts,temp,flow\nTS,degC,l/s\n,Avg,Avg\n1,20,5\n2,21,NAN\n"


def test_a_loggers_file_with_lines_around_its_header(tmp_path: Path) -> None:
    schema = RecordSchema(("temp", "flow"), missing_words=("NAN",))
    path = write(tmp_path / "x.csv", LOGGER)
    values = read(path, schema, header_line=2, skip_after_header=2).batch.values
    np.testing.assert_array_equal(values, [[20.0, 5.0], [21.0, np.nan]])


def test_a_loggers_file_without_the_options_is_refused_with_what_it_looks_like(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", LOGGER)
    with pytest.raises(ConfigurationError, match=r"(?s)1: TOA5.*line 2 looks like the header: --header-line 2"):
        source(path)
    with pytest.raises(ConfigurationError, match="--skip-after-header"):
        source(path, header_line=2)


def test_a_feature_column_twice_is_refused_another_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="column temp appears twice, at 1 and 3"):
        source(write(tmp_path / "x.csv", "temp,flow,temp\n1,2,3\n"))
    assert len(read(write(tmp_path / "y.csv", "temp,flow,x,x\n1,2,3,4\n")).batch) == 1
    assert len(read(write(tmp_path / "z.csv", "temp,flow,temp.1\n1,2,3\n")).batch) == 1


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lacks flow"):
        source(write(tmp_path / "x.csv", "temp,level\n1,2\n"))


def test_words_late_in_a_column_are_bad_rows_not_another_type(tmp_path: Path) -> None:
    rows = ["1,2"] * 12_000
    rows[11_990], rows[11_995], rows[11_999] = "I/O Timeout,2", "N/A,2", "1.1e20,2"
    path = write(tmp_path / "x.csv", "temp,flow\n" + "\n".join(rows) + "\n")
    opened, decoder = source(path), make_decoder(SCHEMA)
    bad, values = [], []
    while not opened.exhausted:
        decoded = decoder.decode(opened.poll(0.0))
        bad += [(int(decoded.batch.raw.offsets[one.record]), one.message) for one in decoded.bad]
        values.append(decoded.batch.values)
    assert bad == [(11_990, "temp is no number: 'I/O Timeout'")]
    column = np.concatenate(values)[:, 0]
    assert len(column) == 11_999
    assert np.isnan(column[11_994])
    assert column[-1] == 1.1e20


def test_a_row_of_another_width_is_bad_and_keeps_its_cells(tmp_path: Path) -> None:
    decoded = read(write(tmp_path / "x.csv", "temp,flow\n1,2\n1,2,3\n4,5\n"))
    assert decoded.batch.values[:, 0].tolist() == [1.0, 4.0]
    assert decoded.batch.raw.values[decoded.bad[0].record] == b'["1","2","3"]'


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert source(write(tmp_path / name, b"")).exhausted


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert source(write(tmp_path / "x.csv", "temp,flow\n")).exhausted


def test_json_lines_torn_glued_and_blank(tmp_path: Path) -> None:
    lines = b'{"temp": 1, "flow": 1}\n\n{"temp": 2, "fl{"temp": 3, "flow": 3}\n{"temp": 4, "flow": 4}{"temp": 5}\n  \n'
    decoded = read(write(tmp_path / "x.jsonl", lines + b'{"temp": 6, "flow": 6}'))
    assert decoded.batch.values[:, 0].tolist() == [1.0, 6.0]
    assert len(decoded.bad) == 2


def test_following_waits_for_the_end_of_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b'{"temp": 1, "flow": 1}\n{"temp": 2,')
    following = source(path, follow=True)
    assert len(following.poll(0.0)) == 1
    assert len(following.poll(0.0)) == 0
    with path.open("ab") as file:
        file.write(b' "flow": 2}\n')
    assert following.poll(0.0).values == [b'{"temp": 2, "flow": 2}']
    assert not following.exhausted


def test_following_a_csv_that_grows(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"temp,flow\n1,2\n")
    following = source(path, follow=True)
    assert len(following.poll(0.0)) == 1
    with path.open("ab") as file:
        file.write(b"3,4\n5,")
    assert make_decoder(SCHEMA).decode(following.poll(0.0)).batch.values.tolist() == [[3.0, 4.0]]
    assert len(following.poll(0.0)) == 0


def test_parquet_column_types(tmp_path: Path) -> None:
    schema = RecordSchema(("d", "i", "h", "u", "t", "f"), timestamp="when")
    table = pa.table(
        {
            "d": pa.array([Decimal("1.25"), None], pa.decimal128(9, 2)),
            "i": pa.array([None, -7], pa.int16()),
            "h": pa.array([0.5, 1.5], pa.float16()),
            "u": pa.array([2**40, 3], pa.uint64()),
            "t": pa.array(["4.5", "N/A"]).dictionary_encode(),
            "f": pa.array([float("inf"), float("nan")]),
            "tags": pa.array([["x"], []], pa.list_(pa.string())),
            "when": pa.array(
                [datetime(2031, 3, 4, 7, tzinfo=ZoneInfo("Europe/Vienna"))] * 2, pa.timestamp("us", "Europe/Vienna")
            ),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    batch = read(tmp_path / "x.parquet", schema).batch
    expected = [[1.25, np.nan, 0.5, 2.0**40, 4.5, np.finfo(np.float32).max], [np.nan, -7, 1.5, 3, np.nan, np.nan]]
    np.testing.assert_array_equal(batch.values, expected)
    assert batch.clipped.tolist() == [True, False]
    assert batch.timestamps[0] == 1_930_370_400_000, "06:00 UTC"


def test_parquet_without_rows_and_without_a_column(tmp_path: Path) -> None:
    empty = pa.table({"temp": pa.array([], pa.float64()), "flow": pa.array([], pa.float64())})
    pq.write_table(empty, tmp_path / "x.parquet")
    assert source(tmp_path / "x.parquet").exhausted
    pq.write_table(empty.select(["temp"]), tmp_path / "y.parquet")
    with pytest.raises(ConfigurationError, match="lacks the columns flow; it has temp"):
        source(tmp_path / "y.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1 not", "no Parquet file"),
        ("x.xlsx", b"", "must end in .csv, .jsonl or .parquet"),
        ("x.csv.gz", b"no gzip", "cannot be read"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        source(write(tmp_path / name, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        source(tmp_path / "x.csv")


def test_the_sink_writes_rows_and_dead_letters_beside_them(tmp_path: Path) -> None:
    sink = FileSink(config.FileSink(type="file", path=str(tmp_path / "out.jsonl")))
    sink.open()
    sink.write([None, None], [b'{"x":1}', b'{"x":2}'])
    sink.write_alerts([None], [b'{"x":2}'])
    headers: list[tuple[str, bytes | None]] = [("h", None), (HeaderName("caf\udce9"), b"1")]
    sink.write_dead_letters([DeadLetter(None, b"\xff", headers, 0, "parse", "t", 0, 5)])
    sink.flush()
    sink.close()
    assert (tmp_path / "out.jsonl").read_text() == '{"x":1}\n{"x":2}\n'
    assert not list(tmp_path.glob("*episodes*")), "flagged rows are marked where they stand"
    letter = json.loads((tmp_path / "out.dead-letters.jsonl").read_text())
    assert letter["value_base64"] == "/w=="
    assert letter["headers"] == [{"value": None, "name": "h"}, {"value": "1", "name_base64": "Y2Fm6Q=="}]
    assert letter["source"] == {"topic": "t", "partition": 0, "offset": 5}


def test_a_sink_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        FileSink(config.FileSink(type="file", path=str(tmp_path / "nowhere" / "out.jsonl"))).open()
