"""What the name of a field says about it. A hint only: the values decide."""

from __future__ import annotations

import re
from itertools import pairwise

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

CERTAIN_LABELS = {"label", "labels", "anomaly", "anomalies", "anomalous", "isanomaly", "outlier", "changepoint"}
CERTAIN_LABEL_PAIRS = {("change", "point"), ("ground", "truth")}
POSSIBLE_LABELS = {"fault", "faults", "faulty", "isfault", "failure", "target", "class", "attack", "defect", "y"}
TIMES = {"ts", "time", "timestamp", "date", "datetime", "at", "epoch", "created", "received", "eventtime", "t"}
IDS = {"id", "ids", "uuid", "guid", "pk", "key", "serial", "number", "nr", "no", "ref"}
CODES = {"code", "status", "type", "kind", "category", "version", "port", "zip", "postcode"}
KEYS = {
    *("device", "machine", "sensor", "asset", "host", "hostname", "node", "plant", "line", "station", "meter"),
    *("pump", "robot", "site", "equipment", "vehicle", "key", "serial", "customer", "tenant", "tag"),
}


def words(name: str) -> list[str]:
    """The words of a field's last part, in lower case.

    >>> words("data.isAnomaly"), words("temp_c")
    (['is', 'anomaly'], ['temp', 'c'])
    """
    return [word.lower() for word in WORD.findall(name.rsplit(".", 1)[-1])]


def certain_label(name: str) -> bool:
    """Nobody calls a sensor so."""
    found = words(name)
    pairs = set(pairwise(found))
    return bool(CERTAIN_LABELS & set(found) or CERTAIN_LABEL_PAIRS & pairs)


def possible_label(name: str) -> bool:
    return bool(POSSIBLE_LABELS & set(words(name)))


def time_like(name: str) -> bool:
    return bool(TIMES & set(words(name)))


def id_like(name: str) -> bool:
    """The last word counts: `part_no` is one, and nitric oxide, `no`, is none."""
    found = words(name)
    return bool(found) and found[-1] in IDS and (len(found) > 1 or found[-1] != "no")


def code_like(name: str) -> bool:
    found = words(name)
    return bool(found) and found[-1] in CODES


def key_like(name: str) -> bool:
    """Something that many rows can be of: a device, a line, a site."""
    *parents, last = name.split(".")
    of = words(parents[-1]) if parents else []
    return bool(KEYS & {*words(last), *(of if id_like(last) else [])})
