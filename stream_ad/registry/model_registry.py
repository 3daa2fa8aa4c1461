"""The model registry: snapshots in a folder, the live pointer, roll-back."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stream_ad.registry.snapshot import (
    Arrays,
    RegistryError,
    Snapshot,
    SnapshotError,
    read_metadata,
    read_snapshot,
    sha256,
    to_disk,
    write_snapshot,
)

log = logging.getLogger("stream_ad.registry")

LIVE_FILE = "live"
WINDOW_FILE = "window.safetensors"
TEMPORARY_PREFIX = ".tmp-"
STALE_SECONDS = 3600.0
VERSION = re.compile(r"\d{8}T\d{9}-[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of `models list`."""

    version: str
    created: str
    """ISO 8601, UTC."""
    accepted: bool
    reasons: list[str]
    report: dict[str, Any]


class ModelRegistry:
    """Snapshots under a folder, each complete or not there at all, and a pointer to the live one.

    Everything is written beside its place and renamed into it. Readers look by content and take a torn or
    missing pointer for no pointer.
    """

    def __init__(self, path: str, keep: int) -> None:
        self.path = Path(path)
        self.keep = keep

    def check_writable(self) -> None:
        """Raise `RegistryError` now rather than at the first training hours later."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise RegistryError(
                f"registry.path {self.path} cannot be written ({error.strerror}): mount a volume there, or let "
                "registry.path name a folder that this user may write"
            ) from error

    def save(self, snapshot: Snapshot) -> str:
        """Store a snapshot under a new version and return that; `snapshot.version` is set to it."""
        now = datetime.now(UTC)
        version = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"
        folder = self.path / f"{TEMPORARY_PREFIX}{version}"
        folder.mkdir(parents=True)
        try:
            write_snapshot(snapshot, folder)
            folder.rename(self.path / version)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        to_disk(self.path)
        snapshot.version = version
        return version

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if VERSION.fullmatch(entry.name))

    def live(self) -> str | None:
        """The version that is live; None where there is none or the pointer cannot be made out."""
        try:
            version = (self.path / LIVE_FILE).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return version if VERSION.fullmatch(version) and (self.path / version).is_dir() else None

    def set_live(self, version: str) -> None:
        """Point at another version, in one step. Raises `SnapshotError` if it is not there."""
        read_metadata(self.path / version)
        self._replace(LIVE_FILE, f"{version}\n".encode())

    def load(self, version: str) -> Snapshot:
        """Raises `SnapshotError` for a snapshot that is missing or damaged."""
        return read_snapshot(self.path / version)

    def load_live(self) -> Snapshot | None:
        """The live snapshot, or the newest good accepted one if that or the pointer is damaged.

        None if nothing was ever made live, or nothing good is left.
        """
        live = self.live()
        if live is None:
            if not (self.path / LIVE_FILE).exists():
                return None
            log.error("%s names no model that is there; the newest good model is used", self.path / LIVE_FILE)
        accepted = [summary.version for summary in reversed(self.list()) if summary.accepted]
        for version in dict.fromkeys([live, *accepted] if live else accepted):
            try:
                return self.load(version)
            except SnapshotError as error:
                log.error("%s; the newest good model is used instead", error)
        return None

    def metadata(self, version: str) -> dict[str, Any]:
        """What is known of a model without loading it. Raises `SnapshotError`."""
        return read_metadata(self.path / version)

    def list(self) -> list[Summary]:
        """All readable snapshots, oldest first."""
        found = []
        for version in self.versions():
            try:
                metadata = self.metadata(version)
            except SnapshotError as error:
                log.error("%s", error)
                continue
            created = datetime.fromtimestamp(metadata["created_at"], UTC).isoformat(timespec="seconds")
            verdict = metadata["verdict"]
            found.append(Summary(version, created, verdict["accepted"], verdict["reasons"], metadata["report"]))
        return found

    def rollback(self, version: str | None = None) -> str:
        """Make `version` live, or the accepted one before the live one. Raises `RegistryError`."""
        if version is None:
            live = self.live()
            earlier = [s.version for s in self.list() if s.accepted and (live is None or s.version < live)]
            if not earlier:
                raise RegistryError(f"there is no accepted model before {live} in {self.path}")
            version = earlier[-1]
        self.load(version)
        self.set_live(version)
        return version

    def prune(self) -> None:
        """Delete all but the `keep` newest versions, and what crashes have left.

        The live one stays, and the accepted one before it: however many are rejected, there is a way back.
        """
        live = self.live()
        before = [summary.version for summary in self.list() if summary.accepted and summary.version < (live or "")]
        kept = {live, *before[-1:]}
        for version in self.versions()[: -self.keep]:
            if version not in kept:
                shutil.rmtree(self.path / version, ignore_errors=True)
        for leftover in self.path.glob(f"{TEMPORARY_PREFIX}*"):
            # Workers that share the registry clean up at the same time: what is gone already is well.
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    remove = shutil.rmtree if leftover.is_dir() else Path.unlink
                    remove(leftover)

    def save_window(self, window: Arrays) -> None:
        """Keep the window of a worker that ends."""
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(array) for name, array in window.items()})
        path = self.path / WINDOW_FILE
        # The old sum stays beside the new one: a crash between the two writes leaves the old window good.
        sums = [hashlib.sha256(content).hexdigest(), *([sha256(path)] if path.exists() else [])]
        self._replace(f"{WINDOW_FILE}.sha256", "".join(f"{one}\n" for one in sums).encode())
        self._replace(WINDOW_FILE, content)

    def load_window(self) -> Arrays | None:
        """The window of the last run; None, and a warning, if it is not whole."""
        from safetensors.numpy import load_file

        path = self.path / WINDOW_FILE
        if not path.exists():
            return None
        try:
            if sha256(path) not in (self.path / f"{WINDOW_FILE}.sha256").read_text().split():
                raise ValueError("its SHA-256 is another")
            arrays: Arrays = load_file(path)
        except Exception as error:  # noqa: BLE001  # safetensors raises its own; whatever it is, a fresh window will do
            log.warning("the window of the last run, %s, is not used: %s", path, error)
            return None
        return arrays

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file in one step: whole or not at all, also when the power goes."""
        partial = self.path / f"{TEMPORARY_PREFIX}{name}-{os.getpid()}-{secrets.token_hex(4)}"
        partial.write_bytes(content)
        to_disk(partial)
        partial.replace(self.path / name)
        to_disk(self.path)
