"""What tests fetch once and keep, outside the tree: Kafka, Helm, Prometheus."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stream-ad"


@contextmanager
def fetching() -> Iterator[Path]:
    """The cache's folder, for one process at a time: Maven's own store does not bear several."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE
