"""Labels: what people say of rows that were scored, and what it changes in the window and in training."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_ad.learning.ring import Ring
from stream_ad.learning.window import InlierWindow
from stream_ad.records import Batch, RawBatch

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""
Kind = Literal["normal", "anomaly"]

RECENT_ROWS = 20_000
"""Rows that are kept to be labelled: so many flagged ones, and so many others."""
RECENT_BYTES = 64 << 20
"""Each of the two takes so much memory at most, however many features there are."""
MOST_ANOMALIES = 1000
"""Labelled anomalies that are kept for training, the newest."""
SHOWN = 80


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody says of the rows of a record, or of the one with this id."""

    kind: Kind
    place: Place | None
    id: str | int | None

    def __str__(self) -> str:
        return f"{self.kind} for {self.id if self.id is not None else '-'.join(map(str, self.place or ()))}"


def read_label(value: bytes | None) -> Label:
    """A label from JSON: `label`, with `id` or with `topic`, `partition` and `offset`, these also within `source`, as
    output records have them. Raises ValueError, which says what is wrong."""
    try:
        found = orjson.loads(value or b"null")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}): {shown(value)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"an object is wanted, not {shown(value)}")
    if found.get("label") not in get_args(Kind):
        raise ValueError(f"label must be normal or anomaly: {shown(value)}")
    if "peak_id" in found:
        # The record of an episode: of its rows the highest.
        found = {"label": found["label"], "id": found["peak_id"]}
    source = found["source"] if isinstance(found.get("source"), dict) else found
    topic, partition, offset = (source.get(name) for name in ("topic", "partition", "offset"))
    row_id = found.get("id")
    if isinstance(topic, str) and type(partition) is int and type(offset) is int:
        return Label(found["label"], (topic, partition, offset), row_id)
    if isinstance(row_id, str) or type(row_id) is int:
        return Label(found["label"], None, row_id)
    raise ValueError(f"which row? Give its id, or topic, partition and offset: {shown(value)}")


def shown(value: bytes | None) -> str:
    text = (value or b"null").decode("utf-8", "replace")
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def read_labels(raw: RawBatch) -> tuple[list[Label], list[str]]:
    """The labels of some records, and what is wrong with the others."""
    labels, wrong = [], []
    for i, value in enumerate(raw.values):
        try:
            labels.append(read_label(value))
        except ValueError as error:
            wrong.append(f"{raw.topics[i]}-{raw.partitions[i]}-{raw.offsets[i]}: {error}")
    return labels, wrong


class RecentRows:
    """The last rows with their positions in the window, their ids, and the records that they came from."""

    def __init__(self, capacity: int, width: int) -> None:
        capacity = max(1, min(capacity, RECENT_BYTES // (8 * width)))
        self._ring = Ring(capacity)
        self._columns: dict[str, NDArray[Any]] = {
            "values": np.empty((capacity, width)),
            "position": np.empty(capacity, np.int64),
            "partition": np.empty(capacity, np.int64),
            "offset": np.empty(capacity, np.int64),
            "topic": np.empty(capacity, object),
            "id": np.empty(capacity, object),
        }

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        rows = len(columns["position"])
        places = self._ring.take(rows)
        for name, column in self._columns.items():
            column[places] = columns[name][rows - len(places) :]

    def column(self, name: str) -> NDArray[Any]:
        """A copy of one column, oldest row first."""
        return self._columns[name][self._ring.places()]

    def rows(self, which: Int64 | slice) -> dict[str, NDArray[Any]]:
        """Copies of all columns of some rows, by their places in `column`."""
        return chosen(self._columns, self._ring.places()[which])

    def remove(self, position: Int64) -> None:
        """Forget the rows at these positions."""
        kept = self.rows(np.flatnonzero(~np.isin(self.column("position"), position)))
        self._ring.clear()
        self.add(kept)

    def state(self, name: str) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays for `restore`; texts as JSON, in bytes."""
        columns = self.rows(slice(None))
        for text in ("topic", "id"):
            columns[text] = np.frombuffer(json.dumps(columns[text].tolist()).encode(), np.uint8)
        return {f"{name}.{column}": array for column, array in columns.items()}

    def restore(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        columns: dict[str, NDArray[Any]] = {column: arrays[f"{name}.{column}"] for column in self._columns}
        for text in ("topic", "id"):
            columns[text] = as_objects(json.loads(columns[text].tobytes()))
        self.add(columns)


def as_objects(items: Sequence[object]) -> NDArray[Any]:
    column = np.empty(len(items), object)
    column[:] = items
    return column


def chosen(columns: Mapping[str, NDArray[Any]], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: column[rows] for name, column in columns.items()}


def rows_of(stores: Sequence[RecentRows], which: Int64) -> dict[str, NDArray[Any]]:
    """Copies of some rows of several stores, by their places, ascending, in the stores one behind the other."""
    starts = np.cumsum([0] + [len(store) for store in stores])
    parts = [
        store.rows(which[(which >= start) & (which < start + len(store))] - start)
        for store, start in zip(stores, starts, strict=False)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Feedback:
    """Remembers rows, so that they can be labelled, and puts labels into effect.

    normal: the row goes among the inliers of the window, at its place in time, whatever score it got. anomaly: the
    row leaves window and quarantine, and is kept for the next trainings (`anomalies`), window or not. A later label
    for the same row replaces the one before, and one that says the same changes nothing: labels may be read again.
    """

    def __init__(self, window: InlierWindow, width: int) -> None:
        self._window = window
        # Apart, or the many normal rows would push out the few flagged ones, which most labels are about.
        self._flagged = RecentRows(RECENT_ROWS, width)
        self._others = RecentRows(RECENT_ROWS, width)
        self._anomalies = RecentRows(MOST_ANOMALIES, width)

    @property
    def anomalies(self) -> Float64:
        """[k, width] rows that were labelled as anomalies."""
        values: Float64 = self._anomalies.column("values")
        return values

    def remember(self, batch: Batch, rows: Int64, values: Float64, score: Float64) -> None:
        """Keep those rows of a batch that the window was offered just now, with values [n, width] and scores [n]."""
        record = batch.record[rows]
        columns: dict[str, NDArray[Any]] = {
            "values": values,
            "position": self._window.seen - len(rows) + np.arange(len(rows)),
            "partition": batch.raw.partitions[record],
            "offset": batch.raw.offsets[record],
            "topic": as_objects(batch.raw.topics)[record],
            "id": as_objects(batch.ids)[rows],
        }
        flagged = score >= 1.0
        self._flagged.add(chosen(columns, flagged))
        self._others.add(chosen(columns, ~flagged))

    def take(self, labels: Sequence[Label]) -> list[bool]:
        """Put labels into effect; return for each whether its row is known."""
        stores = (self._others, self._flagged, self._anomalies)
        ids, topics, partitions, offsets, positions = (
            [item for store in stores for item in store.column(name).tolist()]
            for name in ("id", "topic", "partition", "offset", "position")
        )
        with_id = {row_id: i for i, row_id in enumerate(ids)}
        from_place: dict[Place, list[int]] = defaultdict(list)
        for i, place in enumerate(zip(topics, partitions, offsets, strict=True)):
            from_place[place].append(i)
        said: dict[int, tuple[int, bool]] = {}
        used = []
        for label in labels:
            if label.place is not None:
                rows = [i for i in from_place.get(label.place, ()) if label.id is None or ids[i] == label.id]
            else:
                rows = [with_id[label.id]] if label.id in with_id else []
            # By position: a labelled anomaly is known twice.
            said |= {positions[i]: (i, label.kind == "normal") for i in rows}
            used.append(bool(rows))
        if said:
            which, normal = (np.array(each) for each in zip(*sorted(said.values()), strict=True))
            self._apply(rows_of(stores, which), normal)
        return used

    def _apply(self, rows: Mapping[str, NDArray[Any]], normal: NDArray[np.bool_]) -> None:
        self._window.settle(rows["values"], rows["position"], normal)
        self._anomalies.remove(rows["position"])
        self._anomalies.add(chosen(rows, ~normal))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays, for `restore`."""
        return self.for_training() | self._flagged.state("recent.flagged") | self._others.state("recent.others")

    def for_training(self) -> dict[str, NDArray[np.generic]]:
        """The part of it that a training needs, and that is kept with its model."""
        return self._anomalies.state("anomalies")

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` or `for_training` gave, after the window was restored."""
        for name, store in (
            ("anomalies", self._anomalies),
            ("recent.flagged", self._flagged),
            ("recent.others", self._others),
        ):
            if f"{name}.values" in arrays:
                store.restore(name, arrays)
