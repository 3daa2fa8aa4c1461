"""The commands of `stream-ad`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from stream_ad.config import Config, ConfigWatcher, FileSource
    from stream_ad.registry import ModelRegistry
    from stream_ad.worker import Worker

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Anomaly detection on streams of tabular and sensor data, without labels.

See it at once, no broker needed: **stream-ad demo**

Then: **stream-ad init** looks at your topic and writes config.yaml, **stream-ad lint** checks it, and
**stream-ad run** scores the stream.
""",
)
models = typer.Typer(no_args_is_help=True, help="Look at the models in the registry and put an earlier one back.")
app.add_typer(models, name="models")

out = Console()
err = Console(stderr=True)

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a key, as in --set alerts.false_alarm_rate=0.01."),
]
DEFAULT_CONFIG = Path("config.yaml")
SAVE_SECONDS = 2.0
"""What an ending worker needs to keep its window once it has given up waiting."""


def main() -> None:
    """Entry point of the console script."""
    app()


def stop_with(message: str, code: int = 2) -> NoReturn:
    err.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def warn(message: str) -> None:
    err.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def read_config(path: Path, overrides: list[str] | None) -> Config:
    """Load the configuration or end with exit code 2 and a list of what is wrong."""
    return watched_config(path, overrides).config


def watched_config(path: Path, overrides: list[str] | None) -> ConfigWatcher:
    """As `read_config`, with an eye on what the file becomes."""
    from stream_ad.config import ConfigError, ConfigWatcher

    try:
        return ConfigWatcher(path, overrides or [])
    except ConfigError as error:
        stop_with(str(error))


@contextmanager
def teaching_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into a message and exit code 2."""
    from stream_ad.detector import TrainingError
    from stream_ad.registry import RegistryError
    from stream_ad.transports import TransportError

    try:
        yield
    except (TransportError, RegistryError, TrainingError, OSError) as error:
        stop_with(str(error))


@app.command()
def run(
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch", help="Take up changes of the configuration file.")] = False,
) -> None:
    """Score a stream until it ends or SIGTERM comes: the production command.

    Exit codes: 0 ended as asked, 1 broker lost or never reached, 2 wrong configuration.
    """
    watcher = watched_config(config, overrides)
    settings = watcher.config
    # Until the worker is there to end in good order; as process 1 there would be no default action.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    from stream_ad.config import warnings
    from stream_ad.monitoring import configure_logs

    configure_logs(settings.monitoring.log_format, settings.monitoring.log_level)
    for warning in warnings(settings):
        logging.getLogger("stream_ad.config").warning("%s", warning)
    from stream_ad.worker import Worker

    with teaching_errors():
        worker = Worker(settings, watcher=watcher if watch else None)
    end_on_signals(worker, settings.shutdown_timeout)
    raise typer.Exit(worker.run(on_ready=leave_out_of_garbage_collection))


def leave_out_of_garbage_collection() -> None:
    """Take all that is loaded by now out of the garbage collector's rounds.

    A million objects of the libraries, looked through again and again, cost a quarter of the throughput.
    """
    gc.collect()
    gc.freeze()


def end_on_signals(worker: Worker, shutdown_timeout: float) -> None:
    """SIGTERM and Ctrl-C end the worker gracefully; a second one ends it at once.

    Installed explicitly, since a process that is number 1 in its container has no default action for SIGTERM.
    """

    def give_up() -> None:
        worker.abandon()
        os._exit(0)

    def end(number: int, frame: object) -> None:
        if worker.stopping:
            os._exit(128 + number)
        worker.stop()
        timer = threading.Timer(max(0.1, shutdown_timeout - SAVE_SECONDS), give_up)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


@app.command()
def lint(
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
    connect: Annotated[bool, typer.Option(help="Also ask the brokers: addresses, rights, topics.")] = False,
) -> None:
    """Check a configuration; exit code 2 and the path of each wrong key if it has any."""
    settings = read_config(config, overrides)
    from stream_ad.config import warnings

    for warning in warnings(settings):
        warn(warning)
    if connect:
        with teaching_errors():
            try_connections(settings)
        out.print("brokers, topics and registry answer", style="green")
    good = f"{config} is good: {len(settings.schema_.features)} features"
    out.print(good, style="green", highlight=False, markup=False)
    out.print(f"next: stream-ad run -c {config}", highlight=False, markup=False)


@app.command()
def init(
    bootstrap: Annotated[str, typer.Option(metavar="HOST:PORT", help="Brokers to ask first.")] = "localhost:9092",
    topic: Annotated[list[str] | None, typer.Option(help="The topic to read; several by repeating it.")] = None,
    file: Annotated[Path | None, typer.Option(help="A .csv, .jsonl or .parquet file in place of a topic.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the configuration.")] = DEFAULT_CONFIG,
    security_protocol: Annotated[
        str | None, typer.Option(help="PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL.", show_default="PLAINTEXT")
    ] = None,
    sasl_mechanism: Annotated[
        str | None, typer.Option(help="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, GSSAPI.")
    ] = None,
    sasl_username: Annotated[str | None, typer.Option()] = None,
    sasl_password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the password.")
    ] = None,
    ssl_cafile: Annotated[str | None, typer.Option(help="PEM file of the brokers' authorities.")] = None,
    ssl_certfile: Annotated[str | None, typer.Option(help="PEM file of our certificate.")] = None,
    ssl_keyfile: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    ssl_password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the key's password.")
    ] = None,
    create_topics: Annotated[
        bool, typer.Option("--create-topics", help="Create the output topics that are not there.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the configuration that is there.")] = False,
) -> None:
    """Look at a topic or a file and write a configuration for it, with the reason for each choice.

    Reads some records without joining a group; nothing is committed. No secret goes into the file.
    """
    from stream_ad.proposing import Request
    from stream_ad.proposing import init as propose

    connection = {
        "bootstrap_servers": bootstrap,
        "security_protocol": security_protocol,
        "sasl_mechanism": sasl_mechanism,
        "sasl_username": sasl_username,
        "ssl_cafile": ssl_cafile,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
    }
    secrets = {"sasl_password": sasl_password_env, "ssl_password": ssl_password_env}
    with teaching_errors():
        propose(Request(output, topic or [], file, connection, secrets, create_topics, force), out)


def try_connections(settings: Config) -> None:
    """Open and close once what records and labels come from and go to, and look at the registry. Raises
    `TransportError`, `RegistryError`."""
    from stream_ad.records import RecordSchema
    from stream_ad.transports import make_label_source, make_sink, make_source

    registry = open_registry(settings)
    if settings.role == "scorer":
        registry.live()
    else:
        registry.check_writable()
    schema = RecordSchema(**settings.schema_.model_dump())
    sink = None if settings.role == "trainer" else make_sink(settings)
    for transport in (make_source(settings, schema), make_label_source(settings, schema), sink):
        if transport is None:
            continue
        try:
            transport.open()
        finally:
            transport.close()


InputFile = Annotated[
    Path | None,
    typer.Option("--input", "-i", help="A .csv, .jsonl or .parquet file to read in place of the configured source."),
]
Delimiter = Annotated[str | None, typer.Option(help="CSV: what stands between two columns.", show_default="comma")]
DecimalComma = Annotated[
    bool | None,
    typer.Option("--decimal-comma/--decimal-point", help="CSV: numbers are written 28,7.", show_default="point"),
]
HeaderLine = Annotated[
    int | None, typer.Option(min=1, help="CSV: number of the line with the column names.", show_default="1")
]
SkipAfterHeader = Annotated[
    int | None, typer.Option(min=0, help="CSV: lines below the header that are no data.", show_default="0")
]


def file_source(
    settings: Config,
    path: Path | None,
    delimiter: str | None,
    decimal_comma: bool | None,
    header_line: int | None,
    skip_after_header: int | None,
) -> FileSource | None:
    """The file to read: the given one, or else the configured one if that is a file. Where the command line does not
    say how it is written, it is written as the configured one."""
    from pydantic import ValidationError

    from stream_ad.config import FileSource

    configured = settings.source.model_dump() if isinstance(settings.source, FileSource) else {}
    dialect = {
        "delimiter": delimiter,
        "decimal_comma": decimal_comma,
        "header_line": header_line,
        "skip_after_header": skip_after_header,
    }
    said = {name: value for name, value in dialect.items() if value is not None}
    if path is None and not configured:
        if said:
            stop_with(f"--{next(iter(said)).replace('_', '-')} is for a file: name one with --input")
        return None
    given = {} if path is None else {"path": str(path), "follow": False}
    try:
        return FileSource.model_validate({"type": "file"} | configured | said | given)
    except ValidationError as error:
        wrong = error.errors()[0]
        stop_with(f"--{str(wrong['loc'][0]).replace('_', '-')} {wrong['input']!r}: {wrong['msg']}")


def with_source(settings: Config, source: FileSource | None) -> Config:
    if source is None:
        return settings
    if settings.alerts.per_day is not None:
        warn(
            f"alerts.per_day: a file has no rows a day, so a budget of {settings.alerts.rate():.2g} is taken, as at "
            "one row a second; another one is set by --set alerts.per_day=null --set alerts.false_alarm_rate=0.01"
        )
    return settings.model_copy(update={"source": source})


@app.command()
def train(
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
    input_file: InputFile = None,
    delimiter: Delimiter = None,
    decimal_comma: DecimalComma = None,
    header_line: HeaderLine = None,
    skip_after_header: SkipAfterHeader = None,
) -> None:
    """Learn from a file, or from what the topic holds now, and make the model live.

    The rows should be mostly normal. Nothing is committed in the consumer group.
    """
    settings = read_config(config, overrides)
    source = file_source(settings, input_file, delimiter, decimal_comma, header_line, skip_after_header)
    settings = with_source(settings, source)
    from stream_ad.offline import train as train_offline

    with teaching_errors(), progress_bar() as progress:
        trained = train_offline(settings, progress_task(progress))
    for note in trained.notes:
        warn(note)
    out.print(f"learned from {trained.rows} rows; model {trained.version} is live", highlight=False)
    if trained.bad_records:
        out.print(
            f"{trained.bad_records} bad records were left out: {trained.first_bad}",
            highlight=False,
            markup=False,
        )


@app.command()
def score(
    input_file: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv, .jsonl or .parquet file, .gz too.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the scores, as JSON Lines.")],
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
    delimiter: Delimiter = None,
    decimal_comma: DecimalComma = None,
    header_line: HeaderLine = None,
    skip_after_header: SkipAfterHeader = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if any record is bad.")] = False,
) -> None:
    """Score a file with the live model.

    Bad records are counted, reported and written beside the output as NAME.dead-letters.jsonl.
    """
    settings = read_config(config, overrides)
    source = file_source(settings, input_file, delimiter, decimal_comma, header_line, skip_after_header)
    settings = with_source(settings, source)
    from stream_ad.offline import score as score_offline

    with teaching_errors(), progress_bar() as progress:
        scored = score_offline(settings, output, progress_task(progress))
    out.print(
        f"{scored.rows} rows scored, {scored.flagged} flagged, {scored.bad_records} bad records -> {output}",
        highlight=False,
        markup=False,
    )
    for message in scored.messages:
        err.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if scored.bad_timestamps:
        warn(
            f"{scored.bad_timestamps} rows have no time that could be read from {settings.schema_.timestamp}: their "
            "timestamp is null; see schema.timestamp, schema.timestamp_unit"
        )
    if strict and scored.bad_records:
        raise typer.Exit(1)


@app.command()
def produce(
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
    input_file: InputFile = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows of the simulated plant to send.")] = 20_000,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Rows a second; as fast as it goes if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another plant.")] = 0,
    fault_rate: Annotated[float, typer.Option(min=0.0, help="Faults in a thousand rows of the plant.")] = 0.5,
    delimiter: Delimiter = None,
    decimal_comma: DecimalComma = None,
    header_line: HeaderLine = None,
    skip_after_header: SkipAfterHeader = None,
) -> None:
    """Fill the input topic: with a file, or with the simulated plant, faults included.

    The configuration says where the topic is. The plant's sensors are the features of the config.yaml that
    comes with the project.
    """
    settings = read_config(config, overrides)
    from stream_ad.producing import file_records, plant_records, produce_records

    source = file_source(settings, input_file, delimiter, decimal_comma, header_line, skip_after_header)
    with teaching_errors(), progress_bar() as progress:
        if source is None:
            records, total = plant_records(settings, rows, seed, fault_rate, rate), rows
        else:
            records, total = file_records(settings, source), None
        sent = produce_records(settings, records, rate, progress_task(progress), total)
    out.print(f"{sent} records sent", highlight=False)


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="As fast as it goes, without the live view.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed is another plant.")] = 0,
    summary: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")] = None,
) -> None:
    """Watch the real worker find the faults of a simulated plant; about a minute, no broker needed."""
    from stream_ad.demo import run_demo

    raise typer.Exit(run_demo(seed=seed, fast=fast, summary_path=summary, console=out))


@models.command("list")
def models_list(config: ConfigPath = DEFAULT_CONFIG, overrides: Overrides = None) -> None:
    """All models in the registry, the newest first."""
    settings = read_config(config, overrides)
    with teaching_errors():
        registry = open_registry(settings)
        live, summaries = registry.live(), registry.list()
        pinned = pinned_reference(settings, registry)
    table = Table(Column("version", no_wrap=True), "", "created (UTC)", "rows", "trigger", "gate")
    for summary in reversed(summaries):
        refused = "; ".join(summary.reasons) if summary.rolled_back else "rejected: " + "; ".join(summary.reasons)
        gate = ("accepted" if summary.accepted else refused) + ", reference" * (summary.version == pinned)
        mark = "live" if summary.version == live else ""
        rows, trigger = str(summary.report.get("rows", "")), str(summary.report.get("trigger", ""))
        table.add_row(summary.version, mark, summary.created[:19], rows, trigger, gate)
    out.print(table)


@models.command("show")
def models_show(
    version: Annotated[str | None, typer.Argument(help="The live one if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
) -> None:
    """What is known of one model: features, training report, the gate's verdict."""
    settings = read_config(config, overrides)
    with teaching_errors():
        registry = open_registry(settings)
        wanted = version or registry.live()
        if wanted is None:
            stop_with(f"no model is live in {registry.path}: train one with stream-ad train, or let run do it")
        pinned = wanted == pinned_reference(settings, registry)
        out.print_json(data=registry.metadata(wanted) | {"live": wanted == registry.live(), "reference": pinned})


@models.command("rollback")
def models_rollback(
    version: Annotated[str | None, typer.Argument(help="The accepted one before the live one if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    overrides: Overrides = None,
) -> None:
    """Make an earlier model live again; running workers take it up within seconds."""
    settings = read_config(config, overrides)
    with teaching_errors():
        registry = open_registry(settings)
        out.print(f"model {registry.rollback(version)} is live", highlight=False)


def open_registry(settings: Config) -> Any:
    from stream_ad.registry import ModelRegistry

    return ModelRegistry(settings.registry.path, settings.registry.keep)


def pinned_reference(settings: Config, registry: ModelRegistry) -> str | None:
    """The version that `training.reference` means."""
    from stream_ad.records import RecordSchema

    fingerprint = RecordSchema(**settings.schema_.model_dump()).fingerprint
    return registry.reference(settings.training.reference, fingerprint)


def progress_bar() -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def progress_task(progress: Progress) -> Any:
    """A callable (what, done, total) that moves the bar."""
    task = progress.add_task("", total=None)

    def update(what: str, done: int, of: int | None) -> None:
        progress.update(task, description=what, completed=done, total=of)

    return update


if __name__ == "__main__":
    main()
