"""What the demo shows: live in 80 columns and 24 lines or more, as plain lines, and the report at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream_ad.demo.scoreboard import Alert, Scoreboard, Summary
from stream_ad.simulation import KINDS, SENSORS

BARS = " ▁▂▃▄▅▆▇█"
SPARK_ROWS = 100
"""Rows in one column of the score line."""
HIGHEST_SCORE = 16.0
"""The score at which the upper half of the score line is full."""
BLAME_BAR = 16
"""Characters of a full bar."""
BLAME_FULL = 40.0
"""Flagged rows of late at which a sensor's bar is full."""


class View:
    """Draws the state of board, events and worker; rich asks for it at each refresh."""

    def __init__(
        self, board: Scoreboard, events: Sequence[str], status: Callable[[], dict[str, Any]], seed: int
    ) -> None:
        self._board = board
        self._events = events
        self._status = status
        self._seed = seed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 4
        layout = Layout()
        layout.split_column(
            Layout(self._header(), size=3),
            Layout(Panel(self._scores(width), title="score: in the upper line above the threshold"), size=4),
            Layout(Panel(self._sensors(), title="sensors to blame for the alerts of late"), size=8),
            Layout(Panel(self._alerts(max(1, options.size.height - 20)), title="last alerts"), ratio=1),
            Layout(self._last_events(), size=2),
        )
        yield layout

    def line(self) -> str:
        """The same in one line of text."""
        status, faults = self._status(), self._board.faults()
        return (
            f"row {self._board.done:>6}  {self._board.rate():>5.0f} rows/s  {self._state(status):<23}  "
            f"{sum(faults.values())} of {len(faults)} faults found  "
            f"false alarms {self._board.false_alarm_rate():.2%}"
        )

    def _header(self) -> Text:
        status, faults = self._status(), self._board.faults()
        return (
            Text(no_wrap=True)
            .append(f"stream_ad watches a simulated plant, seed {self._seed}: ", style="bold")
            .append(self._state(status) + "\n", style="bold cyan")
            .append(f"{self._board.done:,} rows, {self._board.rate():,.0f}/s   ")
            .append(f"window {status['window_rows']:,} rows   models swapped in: {status['swaps']}\n")
            .append(f"faults found: {sum(faults.values())} of {len(faults)}   ")
            .append(f"false alarms: {self._board.false_alarm_rate():.2%} of normal rows")
        )

    @staticmethod
    def _state(status: dict[str, Any]) -> str:
        if status["training"]:
            return "training beside scoring" if status["model"] else "learning the first model"
        return f"model {status['model']}" if status["model"] else "warming up"

    def _scores(self, width: int) -> Text:
        """Two lines of bars, each bar the highest score of `SPARK_ROWS` rows: below 1.0, and above it."""
        if not np.isfinite(self._board.score).any():
            return Text("none yet: the first model is still to be learned", style="dim")
        columns = -(-self._board.done // SPARK_ROWS)
        first = max(0, columns - width) * SPARK_ROWS
        scores = np.nan_to_num(self._board.score[first : columns * SPARK_ROWS])
        highest = [scores[i : i + SPARK_ROWS].max() for i in range(0, len(scores), SPARK_ROWS)]
        above = [np.log(max(1.0, score)) / np.log(HIGHEST_SCORE) for score in highest]
        return (
            Text(no_wrap=True)
            .append("".join(map(bar, above)) + "\n", style="red")
            .append("".join(map(bar, highest)), style="green")
        )

    def _sensors(self) -> Table:
        """Two columns of six: name, and a bar for the sensor's shares in the alerts of late."""
        table = Table.grid(expand=True)
        cells = []
        for name, blame in zip(SENSORS, self._board.blame, strict=True):
            eighths = round(8 * BLAME_BAR * min(1.0, blame / BLAME_FULL))
            filled = BARS[8] * (eighths // 8) + BARS[eighths % 8].strip()
            cells.append(Text(f"{name:<20}", no_wrap=True).append(filled, style="red"))
        half = len(cells) // 2
        for left, right in zip(cells[:half], cells[half:], strict=True):
            table.add_row(left, right)
        return table

    def _last_events(self) -> Text:
        return Text("\n".join(self._events[-2:]), style="dim", no_wrap=True, overflow="ellipsis")

    def _alerts(self, lines: int) -> Table:
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0))
        for heading in ("row", "sensor"):
            table.add_column(heading, no_wrap=True)
        for heading in ("value", "expected", "score"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("in truth", no_wrap=True)
        for alert in list(self._board.alerts)[-lines:][::-1]:
            score = f"{alert.score:.1f}"
            numbers = f"{alert.value:.2f}", f"{alert.expected:.2f}", score
            table.add_row(str(alert.row), SENSORS[alert.sensor], *numbers, self._truth(alert))
        return table

    def _truth(self, alert: Alert) -> Text:
        truth = self._board.truth
        if not truth.fault[alert.row]:
            return Text("false alarm", style="yellow")
        kind = KINDS[truth.kind[alert.row]].replace("_", " ")
        if truth.feature[alert.row] == alert.sensor:
            return Text(kind, style="green")
        return Text(f"{kind}, {SENSORS[truth.feature[alert.row]]}", style="yellow")


def bar(share: float) -> str:
    """A block of the height (or rather fullness) 0 to 1."""
    return BARS[round(8.0 * min(1.0, max(0.0, share)))]


def report(summary: Summary) -> Group:
    """The report at the end."""
    table = Table("fault", "found", "of", title="Faults of the plant", title_justify="left")
    for kind, counts in summary.faults_by_kind.items():
        table.add_row(kind.replace("_", " "), str(counts["found"]), str(counts["faults"]))
    table.add_section()
    table.add_row("all", str(summary.faults_found), str(summary.faults))
    return Group(table, Text("\n".join(report_lines(summary))))


def report_lines(summary: Summary) -> list[str]:
    """What the table does not say, and the verdict."""
    found = summary.faults_found / max(1, summary.faults)
    ratio = summary.false_alarm_rate / summary.false_alarm_budget
    verdict = "Good" if found >= 0.9 and ratio <= 2.0 else "Not good enough"
    if summary.faults == 0:
        verdict = "Too early to say"
    p50, p99 = 1000 * summary.latency_p50_seconds, 1000 * summary.latency_p99_seconds
    return [
        f"Faults: {found:.0%} found; in {summary.right_feature_share:.0%} of these the right sensor was named.",
        f"False alarms: {summary.false_alarm_rate:.2%} of normal rows, {ratio:.2f} times the budget.",
        f"Latency from source to output: p50 {p50:.0f} ms, p99 {p99:.0f} ms.",
        f"Trainings: {summary.trainings}, models swapped in: {summary.swaps}, while scoring went on.",
        f"{summary.rows:,} rows in {summary.seconds:.0f} s, seed {summary.seed}.",
        f"{verdict}: wanted are 90 % of the faults, and twice the budget at most.",
    ]
