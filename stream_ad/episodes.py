"""What of the flagged rows becomes an alert: episodes, and how long one alert keeps the next of its key back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream_ad.records import (
    NO_TIMESTAMP,
    Batch,
    EndedBy,
    Episode,
    Place,
    RecordSchema,
    Status,
    Verdicts,
    encode_episode,
)

Int64 = NDArray[np.int64]
Emit = Literal["rows", "episodes"]
Records = tuple[list[bytes | None], list[bytes]]
"""Keys and values of output records."""

QUIET_ROWS = 3
"""So many unflagged rows of the key end an episode: with fewer between them, flagged rows belong together."""
SILENT_SECONDS = 3600.0
"""A key that sends nothing for so long has no open episode any more."""
MOST_OPEN = 10_000
"""Open episodes; the one whose key was silent longest ends when there are more."""
MOST_KEYS = 100_000
"""Keys whose last alert is remembered for the cooldown."""


class Episodes:
    """Joins the flagged rows of each key to episodes. Keys without an open episode cost nothing."""

    def __init__(self) -> None:
        self.open: dict[Place, Episode] = {}
        """By the arrival of the key's last row, oldest first."""
        self.started = 0
        """Since the last `Alerts.news`, as `Cooldown.held_back`."""

    def observe(self, batch: Batch, verdicts: Verdicts, now: float) -> list[Episode]:
        """Take in a scored batch; return the episodes that began, went on or ended with it, in that order for each
        key. `now` in seconds since the epoch."""
        touched: list[Episode] = []
        if len(verdicts.flagged) or self.open:
            of_row = batch.places()
            followed = self.open.keys() | {of_row[row] for row in verdicts.flagged.tolist()}
            rows: dict[Place, list[int]] = {}
            for row in np.flatnonzero(verdicts.status == Status.SCORED).tolist():
                if of_row[row] in followed:
                    rows.setdefault(of_row[row], []).append(row)
            for place, at in rows.items():
                touched += self._follow(place, np.array(at), batch, verdicts, now)
        while len(self.open) > MOST_OPEN:
            touched.append(self._end(next(iter(self.open)), "too_many"))
        # One that began and had to end at once is there twice.
        return list(dict.fromkeys(touched + self.end_silent(now)))

    def end_silent(self, now: float) -> list[Episode]:
        """End the episodes of keys from which nothing has come for `SILENT_SECONDS`."""
        ended = []
        while self.open and now - next(iter(self.open.values())).seen_at >= SILENT_SECONDS:
            ended.append(self._end(next(iter(self.open)), "silence"))
        return ended

    def end_all(self, why: EndedBy) -> list[Episode]:
        return [self._end(place, why) for place in list(self.open)]

    def forget(self, partitions: set[tuple[str, int]]) -> None:
        """Drop the open episodes that began in these, topic and partition: others see how they go on."""
        gone = [place for place, one in self.open.items() if (one.topic, one.partition) in partitions]
        for place in gone:
            del self.open[place]

    def _follow(self, place: Place, rows: Int64, batch: Batch, verdicts: Verdicts, now: float) -> list[Episode]:
        """The rows of one key in their order: their numbers in the batch."""
        touched = []
        flagged = np.flatnonzero(verdicts.is_anomaly[rows])
        if (episode := self.open.get(place)) is not None:
            episode.seen_at = now
            self.open[place] = self.open.pop(place)
            quiet = episode.quiet + (int(flagged[0]) if len(flagged) else len(rows))
            episode.quiet = quiet
            if quiet >= QUIET_ROWS:
                touched.append(self._end(place, "normal_rows"))
        if not len(flagged):
            return touched
        runs = np.split(flagged, np.flatnonzero(np.diff(flagged) > QUIET_ROWS) + 1)
        for run, next_row in zip(runs, [int(later[0]) for later in runs[1:]] + [len(rows)], strict=True):
            if place not in self.open:
                self.open[place] = begin(int(rows[run[0]]), batch, verdicts, now)
                self.started += 1
            episode = self.open[place]
            go_on(episode, rows[run], batch, verdicts, now)
            episode.quiet = next_row - 1 - int(run[-1])
            touched.append(self._end(place, "normal_rows") if episode.quiet >= QUIET_ROWS else episode)
        return touched

    def _end(self, place: Place, why: EndedBy) -> Episode:
        episode = self.open.pop(place)
        episode.ended_by = why
        return episode


def begin(row: int, batch: Batch, verdicts: Verdicts, now: float) -> Episode:
    """An episode of which this will be the first row; `go_on` takes the row in."""
    record = int(batch.record[row])
    none = np.zeros(verdicts.attribution.shape[1])
    return Episode(
        topic=batch.raw.topics[record],
        partition=int(batch.raw.partitions[record]),
        offset=int(batch.raw.offsets[record]),
        row=int(batch.row[row]),
        key=batch.keys[row],
        start=int(batch.timestamps[row]),
        attribution=none,
        expected=none,
        began_at=now,
        seen_at=now,
    )


def go_on(episode: Episode, rows: Int64, batch: Batch, verdicts: Verdicts, now: float) -> None:
    """Take in flagged rows, by their numbers in the batch."""
    found = np.searchsorted(verdicts.flagged, rows)
    episode.rows += len(rows)
    episode.attribution = episode.attribution + verdicts.attribution[found].sum(axis=0)
    episode.end = int(batch.timestamps[rows[-1]])
    episode.flagged_at = seconds(episode.end, now)
    episode.model = verdicts.model
    highest = int(verdicts.score[rows].argmax())
    if (score := float(verdicts.score[rows[highest]])) > episode.peak_score:
        episode.peak_score = score
        episode.peak_id = batch.ids[rows[highest]]
        episode.expected = verdicts.expected[found[highest]].copy()


@dataclass(slots=True)
class _LastAlert:
    at: float
    held_back: int = 0


class Cooldown:
    """After an alert of a key holds further ones back for `seconds`, and counts them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.held_back = 0
        self._last: dict[Place, _LastAlert] = {}

    def allows(self, place: Place, at: float) -> bool:
        """Whether an alert at this time may go out. Time that jumps, back or far ahead, holds nothing back."""
        return place not in self._last or abs(at - self._last[place].at) >= self.seconds

    def hold_back(self, place: Place) -> None:
        """Count an alert that `allows` refused."""
        self.held_back += 1
        if place in self._last:
            self._last[place].held_back += 1

    def went_out(self, place: Place, at: float) -> int:
        """An alert went out at this time; return how many were held back since the one before."""
        last = self._last.pop(place, None)
        if self.seconds > 0.0:
            self._last[place] = _LastAlert(at)
            if len(self._last) > MOST_KEYS:
                del self._last[next(iter(self._last))]
        return 0 if last is None else last.held_back


class Alerts:
    """What goes to the anomalies topic: each flagged row, or the beginning and the end of each episode.

    With a cooldown, of either only what does not follow too soon on an earlier alert of the key. An episode that is
    still on when the cooldown is over is told of then, so that nothing that lasts is held back for good.
    """

    def __init__(self, emit: Emit, cooldown_seconds: float, schema: RecordSchema) -> None:
        self.cooldown = Cooldown(cooldown_seconds)
        self.episodes = Episodes()
        self._emit = emit
        self._schema = schema

    def of(self, batch: Batch, verdicts: Verdicts, outputs: list[bytes], now: float) -> Records:
        """What a scored batch gives, with its output records; `now` in seconds since the epoch."""
        touched = self.episodes.observe(batch, verdicts, now)
        return self._rows(batch, verdicts, outputs, now) if self._emit == "rows" else self._tell(touched)

    def of_silence(self, now: float) -> Records:
        """What keys that send no more give."""
        return self._tell(self.episodes.end_silent(now))

    def forget(self, partitions: set[tuple[str, int]]) -> None:
        """Tell no more of what began in partitions that are read elsewhere now."""
        if partitions:
            self.episodes.forget(partitions)

    def at_end(self, why: EndedBy) -> Records:
        """Ends all open episodes: nothing would tell of their end any more."""
        return self._tell(self.episodes.end_all(why))

    def news(self) -> tuple[int, int, int]:
        """Episodes begun since the last call, episodes open now, and alerts held back since the last call."""
        counts = self.episodes.started, len(self.episodes.open), self.cooldown.held_back
        self.episodes.started = self.cooldown.held_back = 0
        return counts

    def longest_open(self) -> float:
        """Seconds from the arrival of the first row of an open episode to that of its key's last one, the most there
        are; 0 without one."""
        return max((one.seen_at - one.began_at for one in self.episodes.open.values()), default=0.0)

    def _rows(self, batch: Batch, verdicts: Verdicts, outputs: list[bytes], now: float) -> Records:
        rows = verdicts.flagged.tolist()
        if not rows or self.cooldown.seconds == 0.0:
            return [batch.keys[row] for row in rows], [outputs[row] for row in rows]
        keys, values, of_row = [], [], batch.places()
        for row in rows:
            at = seconds(int(batch.timestamps[row]), now)
            if not self.cooldown.allows(of_row[row], at):
                self.cooldown.hold_back(of_row[row])
                continue
            suppressed = self.cooldown.went_out(of_row[row], at)
            keys.append(batch.keys[row])
            values.append(outputs[row][:-1] + b',"suppressed":%d}' % suppressed)
        return keys, values

    def _tell(self, touched: list[Episode]) -> Records:
        keys: list[bytes | None] = []
        values: list[bytes] = []
        for episode in touched if self._emit == "episodes" else ():
            place = episode.key if episode.key is not None else (episode.topic, episode.partition)
            at = episode.flagged_at
            statuses: list[Literal["began", "ended"]] = []
            if not episode.told and self.cooldown.allows(place, at):
                episode.told = True
                statuses.append("began")
            if episode.ended_by is not None:
                if episode.told:
                    statuses.append("ended")
                else:
                    self.cooldown.hold_back(place)
            for status in statuses:
                suppressed = self.cooldown.went_out(place, at)
                keys.append(episode.key)
                values.append(encode_episode(episode, status, suppressed, self._schema))
        return keys, values


def seconds(timestamp: int, now: float) -> float:
    """A row's time in seconds since the epoch; that of its arrival if it has none."""
    return now if timestamp == NO_TIMESTAMP else timestamp / 1000.0
