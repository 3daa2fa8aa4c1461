"""The proposal: all that was decided, before it becomes text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stream_ad.proposing import thousands
from stream_ad.proposing.fields import (
    FEW_ROWS,
    NO_READING,
    Field,
    array_length,
    choose_array,
    decide_fields,
    out_of_reach,
    read_fields,
)
from stream_ad.proposing.pace import Pace, of_file, of_stream
from stream_ad.proposing.sample import Sample
from stream_ad.proposing.sentinels import Sentinel, find_sentinels
from stream_ad.proposing.table import Table, read_table
from stream_ad.transports import ConfigurationError

TABLE_IN_ERROR = 12


@dataclass(slots=True)
class Proposal:
    """What `stream-ad init` decided."""

    sample: Sample
    table: Table
    fields: list[Field]
    features: list[str]
    """As they go into `schema.features`."""
    array: Field | None
    sentinels: list[Sentinel]
    missing_words: list[str]
    """To be added to the default of `schema.missing_words`."""
    pace: Pace
    warnings: list[str] = field(default_factory=list)

    def used(self, use: str) -> Field | None:
        """The field that is used as `timestamp`, `id` or `key`."""
        return next((one for one in self.fields if one.use == use), None)


def propose(sample: Sample, *, is_file: bool) -> Proposal:
    """Decide on everything. Raises `ConfigurationError` if nothing in the records can be a feature."""
    table = read_table(sample)
    fields = read_fields(table)
    words = words_for_missing(fields)
    sentinels = set_sentinels(fields)
    array = None
    if table.format == "float32":
        for one in fields:
            one.decide("float32", vector_range(one), "feature")
        features = [one.name for one in fields]
    else:
        needs_key = is_file or not sample.has_keys
        out_of_reach(fields, sample.repeated_columns, sample.thousands_columns)
        decide_fields(fields, table.groups, needs_key=needs_key)
        array = choose_array(fields)
        features = array_names(array) if array else [one.name for one in fields if one.use == "feature"]
    if not features:
        raise ConfigurationError(nothing_to_score(sample, fields))
    rows = round(sample.total * table.rows_per_record)
    per_second = None if sample.per_second is None else sample.per_second * table.rows_per_record
    pace = of_file(rows, len(features)) if is_file else of_stream(rows, per_second, len(features))
    used = {one.name for one in fields if one.use == "feature"}
    relevant = [one for one in sentinels if table.format == "float32" or used & one.fields]
    proposal = Proposal(sample, table, fields, features, array, relevant, words, pace)
    proposal.warnings = list(warn(proposal, rows, is_file))
    return proposal


def words_for_missing(fields: list[Field]) -> list[str]:
    """Texts in fields of numbers that are known to stand for 'no reading'; they no longer count as texts."""
    found: list[str] = []
    for one in fields:
        words = [text for text in one.texts if text.strip().lower() in NO_READING]
        if not words or not len(one.known):
            continue
        found += words
        dropped = set(words)
        kept = [(v, r) for v, r in zip(one.raw, one.row, strict=True) if not (isinstance(v, str) and v in dropped)]
        one.raw, one.row = [v for v, _ in kept], [r for _, r in kept]
        for word in words:
            del one.texts[word]
    return sorted({word.strip() for word in found})


def set_sentinels(fields: list[Field]) -> list[Sentinel]:
    """Find the sentinels and take the certain ones out of the fields, which are judged without them."""
    numeric = [one for one in fields if one.numeric]
    sentinels = find_sentinels(numeric)
    for one in numeric:
        one.leave_out([sentinel.value for sentinel in sentinels if sentinel.strong])
    return sentinels


def vector_range(one: Field) -> str:
    known = one.known
    return f"{known.min():.6g} … {known.max():.6g}" if len(known) else "missing in all rows"


def array_names(array: Field) -> list[str]:
    """Names for the numbers of an array, as in `values_07`."""
    length = array_length(array)
    return [f"{array.path[-1]}_{i:0{len(str(length - 1))}d}" for i in range(length)]


def nothing_to_score(sample: Sample, fields: Sequence[Field]) -> str:
    lines = [f"    {one.name}: {one.looks}, {one.why}" for one in fields[:TABLE_IN_ERROR]]
    if len(fields) > TABLE_IN_ERROR:
        lines.append(f"    … and {len(fields) - TABLE_IN_ERROR} more")
    return (
        f"{sample.name}: no field can be scored: a feature is a number that changes and is there in most rows. "
        "Its fields are\n" + "\n".join(lines)
    )


def warn(proposal: Proposal, rows: int, is_file: bool) -> list[str]:
    """What a person should know before relying on the proposal."""
    table, found = proposal.table, []
    if table.rows < FEW_ROWS:
        found.append(
            f"only {table.rows} rows were there to look at: the evidence is weak. Check the list of features, "
            "or run init again when there is more"
        )
    if is_file and rows < proposal.pace.min_rows:
        found.append(
            f"the file has {rows} rows, and {proposal.pace.min_rows} are needed to learn from: a larger one is needed "
            "for stream-ad train --input FILE; this one can then be scored"
        )
    if table.unreadable:
        found.append(
            f"{table.unreadable} of {table.records} records ({table.unreadable / table.records:.1%}) cannot be read as "
            f"{table.format} and will go to the dead letters; the first: {table.first_unreadable}"
        )
    if table.tombstones:
        found.append(f"{table.tombstones} of {table.records} records have no value (tombstones): they are skipped")
    found += [
        f"{one.name}: {note}: bad records" for one in proposal.fields if one.use == "feature" for note in one.notes
    ]
    found += [
        f"{one.name} is left out: {one.looks}, {one.why}" for one in proposal.fields if one.looks == thousands.LOOKS
    ]
    if len(proposal.features) == 1:
        found.append("there is one feature only: what is found lies in its own distribution")
    return [*found, *table.notes, *proposal.sample.notes]
