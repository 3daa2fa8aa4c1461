"""What `stream-ad init` makes of records: formats, roles of fields, sentinels, dialects, the written file."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from typer.testing import CliRunner, Result

from stream_ad.cli import app
from stream_ad.config import FileSource, load
from stream_ad.proposing.pace import of_file, of_stream
from stream_ad.proposing.proposal import Proposal, propose
from stream_ad.proposing.sample import Sample
from stream_ad.proposing.writing import config_text, file_places, topic_places, write_config
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports import ConfigurationError
from stream_ad.worker import Worker
from tests.running import SHORT

N = 200
START = 1_930_381_200


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def noise(i: int) -> float:
    """A reading that goes up and down, the same in each run of the tests."""
    return round(20.0 + 5.0 * math.sin(i * 0.7) + (i * 37 % 11) / 7.0, 3)


NUMBERS = "a,b\n" + "".join(f"{noise(i)},{noise(i + 4)}\n" for i in range(60))


def proposal_of(values: list[bytes | None], **known: Any) -> Proposal:
    sample = Sample("topic t", values, [0] * len(values), total=len(values), **known)
    return propose(sample, is_file=False)


def decided(make: Any, n: int = N) -> Any:
    """The field `x` of records {"x": make(i), "reading": ...}."""
    values: list[bytes | None] = [orjson.dumps({"x": make(i), "reading": noise(i)}) for i in range(n)]
    return next(one for one in proposal_of(values).fields if one.name == "x")


@pytest.mark.parametrize(
    ("make", "looks", "use"),
    [
        (lambda i: noise(i + 3), "number", "feature"),
        (lambda i: f" {noise(i)}", "number", "feature"),
        (lambda i: i % 3 == 0, "true/false", "feature"),
        (lambda i: True, "constant", ""),
        (lambda i: 5, "constant", ""),
        (lambda i: 1000.0 + 1e-12 * (i % 2), "constant", ""),
        (lambda i: 40 + i, "counter", ""),
        (lambda i: 4.2e6 + i * i % 3 + 10 * i, "counter", ""),
        (lambda i: (i * 7919 * 104729) % 1_000_000_007, "identifier", ""),
        (lambda i: START + i, "time", "timestamp"),
        (lambda i: (START + i) * 1000, "time", "timestamp"),
        (lambda i: (START + i) * 10**9, "time", "timestamp"),
        (lambda i: f"2031-03-04T09:{i // 60:02d}:{i % 60:02d}+01:00", "time", "timestamp"),
        (lambda i: f"04.03.2031 09:{i // 60:02d}", "time", ""),
        (lambda i: f"{i:08x}-0000-4000-8000-000000000000", "identifier", "id"),
        (lambda i: ("open", "shut")[i % 2], "category", ""),
        (lambda i: None if i % 3 else noise(i), "mostly missing", ""),
        (lambda i: None, "empty", ""),
        (lambda i: "1.5" if i % 2 else "high", "mixed", ""),
        (lambda i: [{"a": 1}], "array of objects", ""),
    ],
)
def test_what_a_field_looks_like(make: Any, looks: str, use: str) -> None:
    found = decided(make)
    assert (found.looks, found.use) == (looks, use), found.why
    assert found.why


@pytest.mark.parametrize(
    ("name", "make", "use"),
    [
        ("is_anomaly", lambda i: i % 50 == 0, ""),
        ("changepoint", lambda i: float(i == 30), ""),
        ("anomaly_score", noise, ""),
        ("fault", lambda i: i % 4, ""),
        ("fault_current", noise, "feature"),
        ("target", lambda i: i % 2, ""),
        ("target", noise, "feature"),
        ("status_code", lambda i: (200, 404, 500)[i % 3], ""),
        ("part_no", lambda i: 7000 + i * 31 % 97, ""),
        ("no", lambda i: 7 + i * 31 % 97, "feature"),
        ("response_time", noise, "feature"),
    ],
)
def test_names_count_where_the_values_agree(name: str, make: Any, use: str) -> None:
    values: list[bytes | None] = [orjson.dumps({name: make(i), "reading": noise(i)}) for i in range(N)]
    assert next(one for one in proposal_of(values).fields if one.name == name).use == use


def test_nested_fields_are_paths_and_a_literal_dot_is_left_out() -> None:
    values: list[bytes | None] = [
        orjson.dumps({"data": {"pump": {"t": noise(i)}, "p": noise(i + 9)}, "a.b": noise(i)}) for i in range(N)
    ]
    found = proposal_of(values)
    assert found.features == ["data.pump.t", "data.p"]
    [dotted] = [one for one in found.fields if one.name == "a.b"]
    assert "a dot in schema.features leads into a nested object" in dotted.why


def test_a_record_may_be_an_array_of_rows() -> None:
    values: list[bytes | None] = [orjson.dumps([{"a": noise(2 * i)}, {"a": noise(2 * i + 1)}]) for i in range(N)]
    found = proposal_of(values)
    assert (found.features, found.table.rows) == (["a"], 2 * N)


def test_an_array_with_more_numbers_than_there_are_fields_holds_the_features() -> None:
    values: list[bytes | None] = [orjson.dumps({"v": [noise(i), noise(i + 1), 0], "t": noise(i)}) for i in range(N)]
    found = proposal_of(values)
    assert found.array is not None
    assert found.features == ["v_0", "v_1", "v_2"]
    assert next(one for one in found.fields if one.name == "t").use == ""


@pytest.mark.parametrize(("rows_each", "note"), [((1, 1), "taken for one row of 6"), ((1, 3), "several rows a record")])
def test_float32_vectors_say_what_was_assumed(rows_each: tuple[int, int], note: str) -> None:
    rows = Plant(seed=0).rows(3).values[:, :6].astype("<f4")
    values: list[bytes | None] = [rows[: rows_each[i % 2]].tobytes() for i in range(N)]
    found = proposal_of(values)
    assert (found.table.format, len(found.features)) == ("float32", 6)
    assert any(note in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.array([20.5, 1013.0, 3.25], ">f4").tobytes(), "big-endian float32"),
        (np.array([20.5, 1013.7, 3.21], "<f8").tobytes(), "little-endian float64"),
        (b"\0\0\0\0\x07" + bytes(range(100, 140)), "schema registry"),
        (b"temp=20.5 pressure=3", "texts of another kind"),
    ],
)
def test_other_formats_are_named(value: bytes, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        proposal_of([value] * 50)


def test_a_repeated_sentinel_is_set_and_a_doubtful_one_only_told() -> None:
    rows = [{"t": noise(i), "p": noise(i + 5), "q": noise(i + 7)} for i in range(N)]
    for i in range(0, N, 20):
        rows[i]["t"] = -9999
        rows[i]["q"] = -300.0
    rows[7]["p"] = 65535
    found = proposal_of([orjson.dumps(row) for row in rows])
    assert [one.value for one in found.sentinels if one.strong] == [-9999.0]
    assert {one.value for one in found.sentinels if not one.strong} == {65535.0, -300.0}


def test_a_sentinel_that_another_feature_has_as_a_reading_is_not_set() -> None:
    rows = [{"t": noise(i), "count": 9000 + 10 * (i * 37 % 211)} for i in range(N)]
    for i in range(0, N, 20):
        rows[i]["t"] = 9999
    assert not [one for one in proposal_of([orjson.dumps(row) for row in rows]).sentinels if one.strong]


def test_words_in_place_of_readings_are_missing() -> None:
    values: list[bytes | None] = [orjson.dumps({"a": "Bad" if i % 20 == 3 else noise(i)}) for i in range(N)]
    found = proposal_of(values)
    assert (found.features, found.missing_words) == (["a"], ["Bad"])


def test_a_handful_of_records_gives_a_configuration_and_a_warning() -> None:
    found = proposal_of([orjson.dumps({"a": 1.5, "b": 3})])
    assert found.features == ["a", "b"]
    assert any("only 1 rows" in warning for warning in found.warnings)


def test_nothing_to_score_lists_the_fields() -> None:
    with pytest.raises(ConfigurationError, match="name: category, 2 different texts"):
        proposal_of([orjson.dumps({"name": "ab"[i % 2]}) for i in range(N)])


def test_the_key_is_a_field_unless_the_records_have_keys() -> None:
    values: list[bytes | None] = [orjson.dumps({"device": f"d{i % 3}", "n": i // 3, "t": noise(i)}) for i in range(N)]
    keyless = proposal_of(values)
    key = keyless.used("key")
    assert key is not None
    assert key.name == "device"
    assert next(one for one in keyless.fields if one.name == "n").looks == "counter", "it counts for each device"
    assert proposal_of(values, keyed=1.0).used("key") is None


def test_a_window_is_suggested_where_rows_have_a_time_and_a_key(tmp_path: Path) -> None:
    values: list[bytes | None] = [
        orjson.dumps({"device": f"d{i % 3}", "ts": START + i, "t": noise(i)}) for i in range(N)
    ]
    text = config_text(proposal_of(values), topic_places(load_topic_source(), {}, tmp_path / "c.yaml"))
    write_config(text, tmp_path / "c.yaml")
    assert load(tmp_path / "c.yaml").schema_.window == 0, "it is a suggestion and no more"
    write_config(text.replace("# window", "window"), tmp_path / "c.yaml")
    assert load(tmp_path / "c.yaml").schema_.window == 64
    timeless: list[bytes | None] = [orjson.dumps({"t": noise(i), "u": noise(i + 5)}) for i in range(N)]
    assert "window: 64" not in config_text(
        proposal_of(timeless), topic_places(load_topic_source(), {}, tmp_path / "c.yaml")
    )


def test_the_pace_follows_the_rate_and_the_length() -> None:
    slow, fast = of_stream(10_000, 0.5, 10), of_stream(10_000_000, 5000.0, 10)
    assert (slow.min_rows, slow.window_rows) == (300, 10_000)
    assert (fast.min_rows, fast.window_rows, fast.every_rows) == (20_000, 100_000, 4_500_000)
    assert of_stream(300, None, 10).min_rows == 150, "trainable with what is there"
    short = of_file(1000, 10)
    assert (short.min_rows, short.window_rows, short.false_alarm_rate) == (400, 1000, 0.01)


def test_hostile_names_stay_names_in_the_written_file(tmp_path: Path) -> None:
    names = ["plain", "null", "a: b", "${HOME}", "#x", "[y]", "ü °C", "12", "'q\"", "yes", "😀", " padded "]
    rows = [{name: noise(i + k) for k, name in enumerate(names)} for i in range(N)]
    found = proposal_of([orjson.dumps(row | {"bad\nname": noise(i), "": 1.5}) for i, row in enumerate(rows)])
    source = load_topic_source()
    write_config(config_text(found, topic_places(source, {}, tmp_path / "c.yaml")), tmp_path / "c.yaml")
    assert load(tmp_path / "c.yaml").schema_.features == names


def load_topic_source() -> Any:
    from stream_ad.config import KafkaSource

    return KafkaSource(topics=["t"], group="stream-ad-t")


def test_wide_records_are_written_whole_and_shown_in_short(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    rows = np.random.default_rng(0).normal(size=(60, 1500)).round(3)
    path.write_text("\n".join(json.dumps({f"s{i}": v for i, v in enumerate(row)}) for row in rows.tolist()))
    done = run("init", "--file", path, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    assert len(load(tmp_path / "c.yaml").schema_.features) == 1500
    assert "1475 more fields; 1500 of all are features" in done.output
    assert len(done.output.splitlines()) < 100


def loop_csv(rows: int, decimal: str = ".") -> str:
    """The shape of a test bench's files: semicolons, the time first, two labels last."""
    lines = ["datetime;" + ";".join(SENSORS) + ";anomaly;changepoint"]
    for i, row in enumerate(Plant(seed=0, fault_rate=0.0).rows(rows).values.tolist()):
        cells = ";".join(f"{value:.4f}".replace(".", decimal) for value in row)
        lines.append(f"2031-03-04 {9 + i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d};{cells};0{decimal}0;0{decimal}0")
    return "\n".join(lines) + "\n"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small trainings on a busy machine lose more by waiting for each other's threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_file_is_learned_from_and_scored_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_ad.learning.learner.Recipe", lambda: SHORT)
    monkeypatch.chdir(tmp_path)
    Path("bench.csv").write_text(loop_csv(300))
    done = run("init", "--file", "bench.csv")
    assert done.exit_code == 0, done.output
    assert "next: stream-ad train -c config.yaml && stream-ad run -c config.yaml" in done.output
    assert run("lint").output.startswith("config.yaml is good: 12 features")
    assert Worker(load("config.yaml", ["monitoring.port=0"])).run() == 0
    found = [json.loads(line) for line in Path("bench.scores.jsonl").read_text().splitlines()]
    first = load("config.yaml").training.min_rows
    assert first == 120
    assert [one["status"] for one in found] == ["warming_up"] * first + ["scored"] * (300 - first)
    assert found[0]["timestamp"] == "2031-03-04T09:00:00.000Z"
    assert "anomaly" not in load("config.yaml").schema_.features


@pytest.mark.parametrize(
    ("head", "rows", "expected"),
    [
        (["a,b"], "{0},{1}", (",", False, 1, 0)),
        (["a;b"], "{0};{1}", (";", False, 1, 0)),
        (["a\tb"], "{0}\t{1}", ("\t", False, 1, 0)),
        (["a;b"], "{0c};{1c}", (";", True, 1, 0)),
        (['"LOG","unit","00417"', '"t","a","b"', '"TS","degC","kPa"'], "x,{0},{1}", (",", False, 2, 1)),
        (["exported by a tool", "a|b"], "{0}|{1}", ("|", False, 2, 0)),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_how_a_csv_file_is_written(
    tmp_path: Path, head: list[str], rows: str, expected: tuple[str, bool, int, int], packed: bool
) -> None:
    lines = head[:]
    for i in range(60):
        a, b = f"{noise(i):.3f}", f"{noise(i + 4):.3f}"
        lines.append(rows.replace("{0c}", a.replace(".", ",")).replace("{1c}", b.replace(".", ",")).format(a, b))
    content = ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    done = run("init", "--file", path, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    settings = load(tmp_path / "c.yaml")
    source = settings.source
    assert isinstance(source, FileSource)
    assert (source.delimiter, source.decimal_comma, source.header_line, source.skip_after_header) == expected
    assert settings.schema_.features == ["a", "b"]


@pytest.mark.parametrize(
    ("delimiter", "separator", "mark"),
    [(",", ",", "."), (";", ",", "."), (";", ".", ","), ("\t", ",", "."), ("\t", ".", ",")],
)
def test_separators_of_thousands_are_never_taken_for_decimal_points(
    tmp_path: Path, delimiter: str, separator: str, mark: str
) -> None:
    """1.001 beside 999: one of them would be 1000 times too small."""
    lines = [delimiter.join(["rpm", "power", "temp"])]
    for i in range(60):
        rpm, power = (f"{n:,}".replace(",", separator) for n in (round(40 * noise(i)), 11_000 + i * 7 % 53))
        temp = f"{noise(i + 4):.2f}".replace(".", mark)
        lines.append(delimiter.join(f'"{cell}"' for cell in (rpm, power, temp)))
    (tmp_path / "x.csv").write_text("\n".join(lines))
    done = run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    settings = load(tmp_path / "c.yaml")
    assert settings.schema_.features == ["temp"]
    assert isinstance(settings.source, FileSource)
    assert settings.source.decimal_comma == (mark == ",")
    for name in ("rpm", "power"):
        assert f"note: {name} is left out: thousands separators" in done.output
    assert "export the file without them" in done.output


def test_separators_of_thousands_that_come_late_are_seen_too() -> None:
    rpm = [f"{round(70 * noise(i)):,}".replace(",", ".") for i in range(N - 10)] + ["985", "990"] * 5
    values: list[bytes | None] = [orjson.dumps({"rpm": one, "t": noise(i)}) for i, one in enumerate(rpm)]
    assert proposal_of(values).features == ["t"]


@pytest.mark.parametrize(
    "cells",
    [
        ["1,234", "2,100", "12,345", "0,500"],
        ["1,234", "2,100", "12,345"],
        ["1,234", "2,1", "12"],
        ["1,234", "2,345", "0"],
        ["1,234", "2,345", "-1", "-999"],
    ],
)
def test_numbers_with_three_decimals_stay_numbers(tmp_path: Path, cells: list[str]) -> None:
    lines = ["flow;n", *(f"{cells[i * 7 % 11 % len(cells)]};{20 + i * 7 % 11}" for i in range(60))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    done = run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    settings = load(tmp_path / "c.yaml")
    assert settings.schema_.features == ["flow", "n"]
    assert isinstance(settings.source, FileSource)
    assert settings.source.decimal_comma


def test_a_file_with_nothing_but_separators_of_thousands_says_so(tmp_path: Path) -> None:
    lines = ["rpm;power", *(f"{round(40 * noise(i)):,};{11_000 + 7 * i % 53:,}" for i in range(60))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    done = run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "thousands separators" in done.output


@pytest.mark.parametrize("missing", ["", "NA", "Bad"])
@pytest.mark.parametrize(("above", "skip"), [(["ts,a,b"], 0), (["site A,,", ",,", "ts,a,b", "s,,"], 1)])
def test_rows_before_the_first_reading_are_data(tmp_path: Path, missing: str, above: list[str], skip: int) -> None:
    """The configuration serves the next file too, which may begin with readings."""
    lines = above[:]
    for i in range(60):
        a, b = (missing, missing) if i < 3 else (f"{noise(i)}", f"{noise(i + 4)}")
        lines.append(f"2031-03-04T09:{i:02d}:00,{a},{b}")
    (tmp_path / "x.csv").write_text("\n".join(lines))
    done = run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    source = load(tmp_path / "c.yaml").source
    assert isinstance(source, FileSource)
    assert (source.header_line, source.skip_after_header) == (len(above) - skip, skip)


def test_lines_around_the_header_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    rows = "".join(f"{noise(i)},{noise(i + 4)}\n" for i in range(60))
    (tmp_path / "x.csv").write_text(f'logger\n\n"a","b\n(bar)"\n\nm,s\n{rows}')
    assert run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml").exit_code == 0
    source = load(tmp_path / "c.yaml").source
    assert isinstance(source, FileSource)
    assert (source.header_line, source.skip_after_header) == (3, 2)


def test_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"t": [noise(i) for i in range(N)], "on": [i % 3 == 0 for i in range(N)], "name": ["x"] * N}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    done = run("init", "--file", tmp_path / "x.parquet", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "c.yaml").schema_.features == ["t", "on"]


def test_parquet_columns_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    times = pyarrow.array([1_930_381_200_000_000_123 + i for i in range(N)], pyarrow.timestamp("ns"))
    columns = {
        "t": [noise(i) for i in range(N)],
        "far": pyarrow.array([10**8] * N, pyarrow.date32()),
        "since": pyarrow.array([123 + i * 7 for i in range(N)], pyarrow.time64("ns")),
        "nested": pyarrow.StructArray.from_arrays([times], ["at"]),
        "list": pyarrow.array([[1_930_381_200_000_000_123]] * N, pyarrow.list_(pyarrow.timestamp("ns"))),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    done = run("init", "--file", tmp_path / "x.parquet", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "c.yaml").schema_.features == ["t"]


def test_a_damaged_parquet_file_is_an_error_or_loses_the_damaged_column(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    for columns, code in (("t",), 2), (("t", "u"), 0):
        pyarrow.parquet.write_table(pyarrow.table({name: [noise(i) for i in range(N)] for name in columns}), path)
        begin = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
        content = bytearray(path.read_bytes())
        content[begin : begin + 30] = b"\xff" * 30
        path.write_bytes(content)
        done = run("init", "--file", path, "-o", tmp_path / "c.yaml")
        assert done.exit_code == code, done.output
        assert "error: " in done.output if code else load(tmp_path / "c.yaml").schema_.features == ["u"]


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz"])
@pytest.mark.parametrize("begin", [20, 100_000])
def test_a_damaged_gzip_file_cannot_be_read(tmp_path: Path, name: str, begin: int) -> None:
    lines = [
        orjson.dumps({"t": noise(i), "i": i}).decode() if "json" in name else f"{noise(i)},{i}" for i in range(40_000)
    ]
    content = bytearray(gzip.compress(("t,i\n" * ("csv" in name) + "\n".join(lines)).encode()))
    content[begin : begin + 300] = b"\xff" * 300
    (tmp_path / name).write_bytes(content)
    done = run("init", "--file", tmp_path / name, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2, done.output
    assert "cannot be read" in done.output


@pytest.mark.parametrize(("file", "output"), [("x" * 300 + ".csv", "c.yaml"), ("x.csv", "x" * 300 + ".yaml")])
def test_names_that_no_file_can_have(tmp_path: Path, file: str, output: str) -> None:
    (tmp_path / "x.csv").write_text(NUMBERS)
    done = run("init", "--file", tmp_path / file, "-o", tmp_path / output)
    assert done.exit_code == 2
    assert "File name too long" in done.output


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    done = run("init", "--file", tmp_path / "x.csv", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "Permission denied" in done.output


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_utf_16_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    text = NUMBERS if name == "x.csv" else "\n".join(json.dumps({"t": noise(i)}) for i in range(60))
    (tmp_path / name).write_text(text, encoding=encoding)
    done = run("init", "--file", tmp_path / name, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "UTF-16" in done.output


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_folder_is_no_place_for_a_configuration(tmp_path: Path, force: list[str]) -> None:
    (tmp_path / "x.csv").write_text(NUMBERS)
    for folder in (tmp_path, "."):
        done = run("init", "--file", tmp_path / "x.csv", "-o", folder, *force)
        assert done.exit_code == 2, done.output
        assert "is a folder: name a file in it" in done.output


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("[").mkdir()
    for name in ("x[new].csv", "[/b].csv"):
        Path(name).write_text(NUMBERS)
        done = run("init", "--file", name, "-o", "o[new].yaml", "--force")
        assert done.exit_code == 0, done.output
        assert f"of file {name}" in done.output
        assert "o[new].yaml is written" in done.output
        assert "train -c 'o[new].yaml'" in done.output


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", "", "is empty"),
        ("x.csv", "a,b\n", "no column of numbers"),
        ("x.csv", "1.5,2.5\n" * 60, "no line with the names of its 2 columns"),
        ("x.jsonl", "", "has no row in it"),
        ("x.parquet", "no", "is no Parquet file"),
        ("x.txt", "1 2 3\n", "must end in .csv"),
    ],
)
def test_a_file_that_cannot_be_proposed_for_ends_with_2(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    done = run("init", "--file", tmp_path / name, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert expected in done.output
    assert not (tmp_path / "c.yaml").exists()


def registry(config: Path | str) -> str:
    return load(config).registry.path


def test_configurations_for_two_files_share_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for site in ("siteA", "siteB"):
        Path(site).mkdir()
        Path(site, "data.csv").write_text(NUMBERS)
    Path("history.csv").write_text(NUMBERS)

    def proposed(file: str, config: str) -> str:
        done = run("init", "--file", file, "-o", config, "--force")
        assert done.exit_code == 0, done.output
        return registry(config)

    assert [proposed(f"{site}/data.csv", f"{site}.yaml") for site in ("siteA", "siteB")] == [
        "models/siteA",
        "models/siteB",
    ]
    assert proposed("siteA/data.csv", "siteA/plant.yaml") != proposed("siteB/data.csv", "siteB/plant.yaml")
    assert proposed("siteA/data.csv", "config.yaml") == "models/siteA-data"
    assert proposed("siteB/data.csv", "config.yaml") == "models/siteB-data"
    assert proposed("history.csv", "config.yaml") == "models/history"
    Path("models/history/20310304T090000000-0000").mkdir(parents=True)
    assert proposed("history.csv", "config.yaml") == "models/history-2", "a model may be there: whose, nobody knows"


def test_scores_of_namesakes_are_kept_apart_where_they_cannot_lie_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_ad.proposing.writing.os.access", lambda *_: False)
    found = [file_places(FileSource(type="file", path=f"{site}/data.csv"), tmp_path / "c.yaml") for site in "ab"]
    assert [places.scores for places in found] == ["a-data.scores.jsonl", "b-data.scores.jsonl"]


def test_topics_of_one_name_at_two_brokers_share_no_registry() -> None:
    found = [topic_places(load_topic_source(), {}, Path(f"{site}.yaml")).registry for site in "ab"]
    assert found == ["models/a", "models/b"]
    assert topic_places(load_topic_source(), {}, Path("config.yaml")).registry == "models/t"


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(NUMBERS)
    config = tmp_path / "c.yaml"
    config.write_text("mine")
    done = run("init", "--file", tmp_path / "x.csv", "-o", config)
    assert (done.exit_code, config.read_text()) == (2, "mine")
    assert "--force" in done.output
    assert run("init", "--file", tmp_path / "x.csv", "-o", config, "--force").exit_code == 0
    assert "features" in config.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "x.csv"]


def test_a_password_is_named_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT_PASSWORD", "hunter2")
    from stream_ad.config import KafkaSource

    source = KafkaSource.model_validate(
        {"topics": ["t"], "group": "g", "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
        | {"sasl_username": "me", "sasl_password": "hunter2"}
    )
    found = proposal_of([orjson.dumps({"a": noise(i)}) for i in range(N)])
    text = config_text(found, topic_places(source, {"sasl_password": "PLANT_PASSWORD"}, tmp_path / "c.yaml"))
    assert "sasl_password: ${PLANT_PASSWORD}" in text
    assert "hunter2" not in text
    write_config(text, tmp_path / "c.yaml")
    loaded = load(tmp_path / "c.yaml").sink
    assert getattr(loaded, "sasl_password").get_secret_value() == "hunter2"  # noqa: B009


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    done = run("init", "--topic", "t", "--sasl-password-env", "NOT_SET_AT_ALL", "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "NOT_SET_AT_ALL" in done.output


@pytest.mark.parametrize("arguments", [[], ["--topic", "t", "--file", "x.csv"]])
def test_either_a_topic_or_a_file(arguments: list[str], tmp_path: Path) -> None:
    done = run("init", *arguments, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "either --bootstrap HOST:PORT --topic NAME, or --file PATH" in done.output
