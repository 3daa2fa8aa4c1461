"""Logs: for people on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MINUTE = 60.0


def configure_logs(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (standard error): `human`, `json`, or `auto` by whether it is a terminal."""
    stream = stream or sys.stderr
    human = log_format == "human" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanFormatter() if human else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Not lower: the client tells of each of its steps. Not higher: why a connection failed is only told there.
    logging.getLogger("kafka").setLevel(logging.WARNING)


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: _plain(value) for key, value in vars(record).items() if key not in STANDARD}


def _plain(value: object) -> object:
    """Strict JSON has no NaN and no infinity: as texts they can be read."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what was given as `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class HumanFormatter(logging.Formatter):
    """Time, level, message and the extra fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = "".join(f"  {key}={value}" for key, value in extra_fields(record).items())
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()}{fields}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        # A file's name need not be UTF-8.
        return text.encode(errors="backslashreplace").decode()


class OncePerMinute:
    """Lets one line of a kind through a minute and says how many it held back."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def log(self, logger: logging.Logger, level: int, kind: str, message: str) -> None:
        """Log `message` unless one of the same `kind` was logged less than a minute ago."""
        now = time.monotonic()
        if now < self._next.get(kind, 0.0):
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        self._next[kind] = now + MINUTE
        held = self._held.pop(kind, 0)
        more = f" ({held} more like it since the last such line)" if held else ""
        logger.log(level, "%s%s", message, more)
