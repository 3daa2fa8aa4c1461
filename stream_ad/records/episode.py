"""An episode: consecutive flagged rows of one key, and the record that tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_ad.records.batch import NO_TIMESTAMP
from stream_ad.records.encoding import json_key, json_text, json_timestamp
from stream_ad.records.schema import RecordSchema

Float64 = NDArray[np.float64]
EndedBy = Literal["normal_rows", "silence", "end_of_source", "shutdown", "too_many"]
TOP_FEATURES = 3


@dataclass(slots=True, eq=False)
class Episode:
    """Flagged rows of one key, with a few unflagged ones between them at most."""

    topic: str
    """Where its first row came from, with `partition`, `offset` and `row`."""
    partition: int
    offset: int
    row: int
    """Number of the row within its record, -1 where the record is one row by itself."""
    key: bytes | None
    start: int
    """Time of the first and, as `end`, of the last flagged row: ms since the epoch, or `NO_TIMESTAMP`."""
    attribution: Float64
    """[n_features] sum over the flagged rows."""
    expected: Float64
    """[n_features] what the values of the row with the highest score should have been."""
    end: int = NO_TIMESTAMP
    rows: int = 0
    """Flagged ones."""
    peak_score: float = -1.0
    peak_id: str | int = ""
    """`id` of the row with the highest score."""
    model: str | None = None
    """Version that scored the last row."""
    quiet: int = 0
    """Unflagged rows since the last flagged one."""
    flagged_at: float = 0.0
    """Time of the last flagged row, that of its arrival if it has none, in seconds since the epoch."""
    began_at: float = 0.0
    """When its first row arrived, in seconds since the epoch, and as `seen_at` when one of the key last did."""
    seen_at: float = 0.0
    ended_by: EndedBy | None = None
    """None while it is open."""
    told: bool = False
    """Whether the record of its beginning went out."""

    @property
    def id(self) -> str:
        """The place of its first row: the same again when a crash lets the rows be read twice."""
        number = "" if self.row < 0 else f"-{self.row}"
        return f"{self.topic}-{self.partition}-{self.offset}{number}"


def encode_episode(episode: Episode, status: Literal["began", "ended"], suppressed: int, schema: RecordSchema) -> bytes:
    """That an episode began or ended, with all that is known of it by now, as one strict JSON object in UTF-8.

    `suppressed` earlier ones of the key were held back by the cooldown.
    """
    share = episode.attribution / episode.attribution.sum()
    features = np.array(schema.features, object)
    head = (
        f'{{"schema_version":1,"id":{json_text(episode.id)},"key":{json_key(episode.key)},'
        f'"status":"{status}","start":{json_timestamp(episode.start)},"end":{json_timestamp(episode.end)},'
        f'"peak_id":{json_text(episode.peak_id)},'
    )
    rest = orjson.dumps(
        {
            "ended_by": episode.ended_by if status == "ended" else None,
            "rows": episode.rows,
            "peak_score": episode.peak_score,
            "top_features": features[np.argsort(-share, kind="stable")[:TOP_FEATURES]].tolist(),
            "expected": dict(zip(features, episode.expected.tolist(), strict=True)),
            "attribution": dict(zip(features, share.tolist(), strict=True)),
            "suppressed": suppressed,
            "model": episode.model,
            "source": {"topic": episode.topic, "partition": episode.partition, "offset": episode.offset},
        }
    )
    return head.encode() + rest[1:]
