"""What `stream-ad init` decided, as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_ad.proposing.fields import Field
from stream_ad.proposing.pace import rate_text
from stream_ad.proposing.proposal import Proposal
from stream_ad.proposing.writing import comment

MOST_LINES = 60
MOST_OF_A_KIND = 25
PLAIN_WIDTH = 140
"""Where there is no terminal to say its width."""


def show(proposal: Proposal, console: Console) -> None:
    """Print the table, what was assumed of the stream, and what should be thought over."""
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH)
    shown = shortened(proposal.fields)
    title = Text(f"{len(proposal.fields)} fields of {proposal.sample.name}")
    table = Table(title=title, title_justify="left")
    for column in ("field", "looks like", "use", "why", "examples"):
        table.add_column(column, overflow="fold")
    for one in shown:
        cells = (one.name, one.looks, one.use or "left out", "; ".join([one.why, *one.notes]), one.examples)
        style = "" if one.use else "dim"
        table.add_row(*(Text(comment(cell), style=style) for cell in cells))
    console.print(table)
    if len(shown) < len(proposal.fields):
        features = sum(one.use == "feature" for one in proposal.fields)
        line = f"… {len(proposal.fields) - len(shown)} more fields; {features} of all are features"
        console.print(line, highlight=False)
    for line in summary(proposal):
        console.print(Text(line), soft_wrap=True)
    for warning in proposal.warnings:
        console.print(Text(f"note: {comment(warning)}", style="yellow"), soft_wrap=True)


def shortened(fields: list[Field]) -> list[Field]:
    """All fields of a narrow record; of a wide one the first features and the first of those left out."""
    if len(fields) <= MOST_LINES:
        return fields
    used = [one for one in fields if one.use == "feature"][:MOST_OF_A_KIND]
    left = [one for one in fields if not one.use][:MOST_OF_A_KIND]
    chosen = {id(one) for one in [*used, *left, *(one for one in fields if one.use not in ("", "feature"))]}
    return [one for one in fields if id(one) in chosen]


def summary(proposal: Proposal) -> list[str]:
    """Lines on the stream as a whole."""
    sample, pace = proposal.sample, proposal.pace
    looked = f"looked at {proposal.table.records} of {sample.total} records, {proposal.table.rows} rows in them"
    speed = "" if sample.per_second is None else f", {rate_text(sample.per_second * proposal.table.rows_per_record)}"
    lines = [f"{looked}{speed}"]
    for key, value in (
        ("min_rows", pace.min_rows),
        ("window_rows", pace.window_rows),
        ("every_rows", pace.every_rows),
    ):
        lines.append(f"training.{key}: {'never' if value is None else value}: {pace.reasons[key]}")
    strong = [one for one in proposal.sentinels if one.strong]
    lines += [f"no reading: {comment(one.evidence)}" for one in strong]
    lines += [f"perhaps no reading: {comment(one.evidence)}" for one in proposal.sentinels if not one.strong]
    if proposal.missing_words:
        lines.append(f"no reading: the words {', '.join(map(repr, proposal.missing_words))}")
    return lines
