"""The proposal as a commented configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from stream_ad.config import FileSource, KafkaSource, load
from stream_ad.proposing.fields import MISSING_WORDS, Field
from stream_ad.proposing.proposal import Proposal
from stream_ad.transports import ConfigurationError

MOST_LEFT_OUT = 60
COMMENT_COLUMN = 40
LONGEST_COMMENT = 150


@dataclass(frozen=True, slots=True)
class Places:
    """Where the worker reads from, writes to and keeps its models."""

    source: KafkaSource | FileSource
    secrets: dict[str, str]
    """Key of section `source` to the environment variable that holds its value."""
    registry: str
    scores: str
    """A topic, or the path of a file."""
    anomalies: str | None = None
    dead_letters: str | None = None

    @property
    def output_topics(self) -> list[str]:
        return [topic for topic in (self.scores, self.anomalies, self.dead_letters) if topic and self.anomalies]


def topic_places(source: KafkaSource, secrets: dict[str, str], config: Path) -> Places:
    """Names that follow from the first input topic."""
    topic = source.topics[0]
    outputs = (f"{topic}.scores", f"{topic}.anomalies", f"{topic}.dead-letters")
    return Places(source, secrets, registry_of(config, topic), *outputs)


def file_places(source: FileSource, config: Path) -> Places:
    """The scores go beside the file, or here if that folder cannot be written."""
    path = Path(source.path)
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    # Files of many places are called data.csv: away from its folder, a name needs the folder's.
    full = stem if path.parent == Path() else f"{path.resolve().parent.name}-{stem}"
    scores = path.parent / stem if os.access(path.parent, os.W_OK) else Path(full)
    return Places(source, {}, registry_of(config, full), f"{scores}.scores.jsonl")


def registry_of(config: Path, read: str) -> str:
    """A folder beside the configuration that no other one has: a model learned for another plant must not go live.

    It has the configuration's name; `config.yaml` tells nothing, so there the name of what is `read` stands in.
    """
    name = read if config.stem == "config" else config.stem
    folders = (config.parent / "models" / one for one in chain([name], (f"{name}-{i}" for i in count(2))))
    return str(next(folder for folder in folders if is_free(folder)))


def is_free(folder: Path) -> bool:
    """Whether nothing is in a folder, or it is not there."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return not os.path.lexists(folder)


def config_text(proposal: Proposal, places: Places) -> str:
    """The whole of config.yaml."""
    kept = f"{proposal.table.records} of {proposal.sample.total} records"
    parts = [
        [f"# Proposed by stream-ad init from {kept} of {comment(proposal.sample.name)}. Each choice says why; change"],
        ["# what you know better, and check it with stream-ad lint. What is not here has its default."],
        [""],
        _source(places),
        [""],
        _schema(proposal),
        [""],
        _training(proposal),
        [""],
        _outputs(places),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def write_config(text: str, path: Path) -> None:
    """Check the configuration and put it in place, whole or not at all.

    Raises `ConfigError` if it is not good, `ConfigurationError` if it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        load(beside)
        beside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}: name another file with -o") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _source(places: Places) -> list[str]:
    source = places.source
    default = {name: field.default for name, field in type(source).model_fields.items()}
    lines = ["source:", entry("type", source.type, "")]
    whys = {
        "bootstrap_servers": "brokers to ask first",
        "topics": "what is read",
        "group": "workers of one group share the partitions; nothing is committed in it yet",
        "start": "a new group begins with what the topic holds",
        "delimiter": "what stands between two columns",
        "decimal_comma": "numbers are written 28,7",
        "header_line": "the line with the column names",
        "skip_after_header": "lines below it that are no data",
    }
    for key, value in source.model_dump(exclude={"type"}).items():
        if key in places.secrets:
            lines.append(entry(key, f"${{{places.secrets[key]}}}", "from the environment, never in this file"))
        elif value != default[key] or key in ("bootstrap_servers", "start"):
            lines.append(entry(key, escaped(value), whys.get(key, "")))
    return lines


def _schema(proposal: Proposal) -> list[str]:
    lines = ["schema:"]
    if proposal.table.format == "float32":
        lines.append(entry("format", "float32", "little-endian vectors, by the records' length and values"))
        lines += [f"  # {comment(note)}" for note in proposal.table.notes]
    elif isinstance_file(proposal):
        lines.append("  # A file's rows are looked up by column or field name.")
    else:
        lines.append(entry("format", "json", f"objects with {len(proposal.fields)} fields"))
    if proposal.array is not None:
        lines.append(entry("array_field", escaped(proposal.array.name), proposal.array.why))
    for use, otherwise in (
        ("key", "no field names what a row is of; the record's key, if it has one, goes on"),
        ("id", "no field is different in every row; rows are called by topic, partition and offset"),
        ("timestamp", "no field is a time; the record's own is taken"),
    ):
        chosen = proposal.used(use)
        if chosen is not None:
            lines.append(entry(use, escaped(chosen.name), chosen.why))
        elif proposal.table.format == "json":
            lines.append(entry(use, None, otherwise))
    if proposal.used("timestamp") and (proposal.used("key") or proposal.sample.has_keys):
        why = "judges a row along with the last ones of its key: a stuck sensor shows"
        lines.append(f"{'  # window: 64':{COMMENT_COLUMN}} # {why}")
    lines += _missing(proposal)
    lines += _features(proposal)
    return lines


def isinstance_file(proposal: Proposal) -> bool:
    return proposal.sample.name.startswith("file ")


def _missing(proposal: Proposal) -> Iterator[str]:
    strong = [one for one in proposal.sentinels if one.strong]
    if proposal.sentinels:
        yield "  # Numbers that mean 'no reading', in every feature:"
        yield from (f"  #   {comment(one.evidence)}" for one in strong)
        yield from (f"  #   perhaps also {comment(one.evidence)}" for one in proposal.sentinels if not one.strong)
        yield entry("missing_values", [number(one.value) for one in strong], "")
    if proposal.missing_words:
        yield entry(
            "missing_words",
            escaped([*sorted(MISSING_WORDS), *(word for word in proposal.missing_words if word not in MISSING_WORDS)]),
            f"{', '.join(proposal.missing_words)} stand in place of numbers",
        )


def number(value: float) -> float | int:
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def _features(proposal: Proposal) -> Iterator[str]:
    by_name = {one.name: one for one in proposal.fields if one.use == "feature"}
    yield f"  features:  # {len(proposal.features)}, in the order in which they come"
    if proposal.array is not None:
        yield "    # Names made up here: rename them, the order is what counts."
    for name in proposal.features:
        why = by_name[name].why if name in by_name else ""
        yield f"    - {scalar(escaped(name))}".ljust(COMMENT_COLUMN if why else 0) + (
            f" # {comment(why)}" if why else ""
        )
    left_out = [one for one in proposal.fields if not one.use]
    if left_out:
        yield f"  # Left out, {len(left_out)}:"
    yield from (f"  #   {_left_out(one)}" for one in left_out[:MOST_LEFT_OUT])
    if len(left_out) > MOST_LEFT_OUT:
        yield f"  #   … and {len(left_out) - MOST_LEFT_OUT} more"


def _left_out(one: Field) -> str:
    return comment(f"{one.name}: {one.looks}, {one.why}")


def _training(proposal: Proposal) -> list[str]:
    pace = proposal.pace
    lines = ["training:"]
    for key in ("min_rows", "window_rows", "every_rows", "every_seconds"):
        lines.append(entry(key, getattr(pace, key), pace.reasons.get(key, "")))
    why = "share of normal rows that may be flagged"
    if pace.false_alarm_rate > 0.001:
        why += f"; {pace.window_rows} rows do not show a smaller one"
    return [*lines, "", "alerts:", entry("false_alarm_rate", pace.false_alarm_rate, why)]


def _outputs(places: Places) -> list[str]:
    if places.anomalies is None:
        lines = ["sink:", entry("type", "file", ""), entry("path", escaped(places.scores), "one line for each row")]
    else:
        lines = [
            "sink:  # at the same brokers, with the same credentials",
            entry("type", "kafka", ""),
            entry("topic", places.scores, "one output for each row"),
            entry("anomalies_topic", places.anomalies, "flagged rows once more"),
            entry("dead_letter_topic", places.dead_letters, "records that cannot be read, as they came"),
        ]
    return [
        *lines,
        "",
        "registry:",
        entry("path", escaped(places.registry), "its models, no other configuration's: put it on a volume"),
    ]


def entry(key: str, value: Any, why: str) -> str:
    """A line of a section, its reason behind it."""
    shown = f"[{', '.join(map(scalar, value))}]" if isinstance(value, list) else scalar(value)
    line = f"  {key}: {shown}"
    return f"{line:{COMMENT_COLUMN}} # {comment(why)}" if why else line


def scalar(value: Any) -> str:
    """One value as YAML; texts quoted where they need it."""
    return (
        str(yaml.safe_dump(value, allow_unicode=True, width=1 << 30, default_flow_style=True)).split("\n...")[0].strip()
    )


def escaped(value: Any) -> Any:
    """A value in which no dollar sign is taken for a variable."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def comment(text: str) -> str:
    """A text that can stand behind a #."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= LONGEST_COMMENT else line[: LONGEST_COMMENT - 1] + "…"
