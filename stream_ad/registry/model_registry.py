"""The model registry: snapshots, the live pointer, roll-back."""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stream_ad.registry.local_store import LocalStore
from stream_ad.registry.object_store import ObjectStore
from stream_ad.registry.snapshot import (
    MODEL_FILE,
    Arrays,
    RegistryError,
    Snapshot,
    SnapshotError,
    read_metadata,
    read_snapshot,
    sha256,
    to_files,
)
from stream_ad.registry.store import VERSION, Store

log = logging.getLogger("stream_ad.registry")

WINDOW_FILE = "window.safetensors"
WINDOW_SUM_FILE = f"{WINDOW_FILE}.sha256"
TIME_FORMAT = "%Y%m%dT%H%M%S%f"
"""Of a version; a version has milliseconds, this microseconds."""
SETTLED_ROWS = 10_000
"""A model of fewer rows has seen too little of a day to be measured by: to it much of what is normal is strange."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of `models list`."""

    version: str
    created: str
    """ISO 8601, UTC."""
    accepted: bool
    reasons: list[str]
    rolled_back: bool
    """Whether it was live until the stream showed that the model before it was better, or a person went back."""
    schema_fingerprint: str
    report: dict[str, Any]


class ModelRegistry:
    """Snapshots in a folder or an object store, each complete or not there at all, and a pointer to the live one.

    Readers take a torn or missing pointer for no pointer. Any method may raise `RegistryUnavailable` when an
    object store does not answer.
    """

    def __init__(self, path: str, keep: int) -> None:
        """`path` is a folder or a URL such as s3://bucket/prefix; `keep` is how many snapshots to keep."""
        self.path = path
        self.keep = keep
        remote = "://" in path
        self._store: Store = ObjectStore(path) if remote else LocalStore(Path(path))
        self.scratch = Path(tempfile.gettempdir()) if remote else Path(path)
        """Local folder for what a training needs while it runs."""
        self.look_seconds = 10.0 if remote else 1.0
        """How often to look whether another model is live: an object store is asked for money."""

    def check_writable(self) -> None:
        """Raise `RegistryError` now rather than at the first training hours later."""
        self._store.check_writable()

    def save(self, snapshot: Snapshot) -> str:
        """Store a snapshot under a new version, which is later than all others, and return that; `snapshot.version` is
        set to it."""
        version = self._next_version()
        self._store.add(version, to_files(snapshot))
        snapshot.version = version
        return version

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        return self._store.versions()

    def live(self) -> str | None:
        """The version that is live; None where there is none or the pointer cannot be made out."""
        version = self._store.pointer()
        if version is None or not VERSION.fullmatch(version):
            return None
        return version if version in self.versions() else None

    def pointer(self) -> str | None:
        """What the live pointer says, torn or not: what `publish` wants to hear again."""
        return self._store.pointer()

    def publish(self, version: str, instead_of: str | None) -> bool:
        """Make `version` live if the pointer still says `instead_of`; False if another writer was first.

        Raises `SnapshotError` if the version is not there.
        """
        self.metadata(version)
        return self._store.move_pointer(version, instead_of)

    def set_live(self, version: str) -> None:
        """Point at another version, whatever was live. Raises `SnapshotError` if it is not there."""
        while not self.publish(version, self.pointer()):
            pass

    def load(self, version: str, with_window: bool = True) -> Snapshot:
        """Raises `SnapshotError` for a snapshot that is missing or damaged."""
        return read_snapshot(version, partial(self._store.read, version), with_window)

    def load_live(self, with_window: bool = True) -> Snapshot | None:
        """The live snapshot, or the newest good accepted one if that or the pointer is damaged.

        None if nothing was ever made live, or nothing good is left.
        """
        live = self.live()
        if live is None:
            if self.pointer() is None:
                return None
            log.error("the live pointer in %s names no model that is there; the newest good model is used", self.path)
        accepted = [summary.version for summary in reversed(self.list()) if summary.accepted]
        for version in dict.fromkeys([live, *accepted] if live else accepted):
            try:
                return self.load(version, with_window)
            except SnapshotError as error:
                log.error("%s; the newest good model is used instead", error)
        return None

    def metadata(self, version: str) -> dict[str, Any]:
        """What is known of a model without loading it. Raises `SnapshotError`."""
        return read_metadata(version, partial(self._store.read, version))

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
            found.append(
                Summary(
                    version,
                    created,
                    verdict["accepted"],
                    verdict["reasons"],
                    verdict.get("rolled_back", False),
                    metadata["schema_fingerprint"],
                    metadata["report"],
                )
            )
        return found

    def reference(self, wanted: str, schema_fingerprint: str) -> str | None:
        """The version that `training.reference` means: `first`, the oldest accepted one of this schema that learned
        from SETTLED_ROWS or more, or else the oldest; `none`; or the one it names, there or not.

        There is no record of which one is pinned: training never prunes it, and should someone delete it, the next
        one takes its place.
        """
        if wanted != "first":
            return None if wanted == "none" else wanted
        accepted = [s for s in self.list() if s.accepted and s.schema_fingerprint == schema_fingerprint]
        settled = [s for s in accepted if s.report.get("rows", 0) >= SETTLED_ROWS]
        return next((s.version for s in settled + accepted), None)

    def accepted_before(self, version: str) -> str | None:
        """The latest accepted one that is earlier than this one."""
        return latest_before(version, self._accepted())

    def rollback(self, version: str | None = None) -> str:
        """Make `version` live, or the accepted one before the live one. Raises `RegistryError`.

        What was live and what is passed over count as rolled back: the next way back leads past them. `version` itself
        no longer does.
        """
        live, accepted = self.live(), self._accepted()
        if version is None:
            version = latest_before(live, accepted)
            if version is None:
                raise RegistryError(f"there is no accepted model before {live} in {self.path}")
        self.load(version)
        self._forgive(version)
        self.set_live(version)
        for later in accepted:
            if version < later <= (live or ""):
                self.reject_rolled_back(later, f"rolled back by hand to {version}")
        return version

    def reject_late(self, version: str, reason: str) -> None:
        """Mark a model that the gate accepted and that never went live: no way back leads to it. Raises
        `SnapshotError`."""
        self._amend_verdict(version, accepted=False, reasons=[reason])

    def reject_rolled_back(self, version: str, reason: str) -> None:
        """Mark a model that was accepted and proved bad: no way back leads to it. Raises `SnapshotError`."""
        reasons = self.metadata(version)["verdict"]["reasons"]
        self._amend_verdict(version, accepted=False, reasons=[*reasons, reason], rolled_back=True)

    def prune(self, keep_also: str | None = None) -> None:
        """Delete all but the `keep` newest versions, and what crashes have left.

        The live one stays, and the accepted one before it: however many are rejected, there is a way back. So does
        `keep_also`.
        """
        live = self.live()
        kept = {live, self.accepted_before(live or ""), keep_also}
        for version in self.versions()[: -self.keep]:
            if version not in kept:
                self._store.remove(version)
        self._store.clean()

    def save_window(self, window: Arrays) -> None:
        """Keep the window of a worker that ends."""
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(array) for name, array in window.items()})
        # The old sum stays beside the new one: a crash between the two writes leaves the old window good.
        try:
            sums = [sha256(content), sha256(self._store.read_file(WINDOW_FILE))]
        except FileNotFoundError:
            sums = [sha256(content)]
        self._store.write_file(WINDOW_SUM_FILE, "".join(f"{one}\n" for one in sums).encode())
        self._store.write_file(WINDOW_FILE, content)

    def load_window(self) -> Arrays | None:
        """The window of the last run; None, and a warning, if it is not whole."""
        from safetensors.numpy import load

        try:
            content = self._store.read_file(WINDOW_FILE)
        except FileNotFoundError:
            return None
        try:
            if sha256(content) not in self._store.read_file(WINDOW_SUM_FILE).decode().split():
                raise ValueError("its SHA-256 is another")
            arrays: Arrays = load(content)
        except Exception as error:  # noqa: BLE001  # safetensors raises its own; whatever it is, a fresh window will do
            log.warning("the window of the last run, %s in %s, is not used: %s", WINDOW_FILE, self.path, error)
            return None
        return arrays

    def _accepted(self) -> Sequence[str]:
        """Versions, oldest first."""
        return [summary.version for summary in self.list() if summary.accepted]

    def _next_version(self) -> str:
        """The time, or a millisecond after the latest version if the clock was set back since."""
        time = datetime.now(UTC)
        if versions := self.versions():
            latest = datetime.strptime(versions[-1].partition("-")[0], TIME_FORMAT).replace(tzinfo=UTC)
            time = max(time, latest + timedelta(milliseconds=1))
        return f"{time.strftime(TIME_FORMAT)[:-3]}-{secrets.token_hex(2)}"

    def _forgive(self, version: str) -> None:
        """Take back what `reject_rolled_back` has done, and nothing that the gate has."""
        verdict = self.metadata(version)["verdict"]
        if verdict.get("rolled_back", False):
            reasons = verdict["reasons"][:-1]
            self._amend_verdict(version, accepted=not reasons, reasons=reasons, rolled_back=False)

    def _amend_verdict(self, version: str, **changes: Any) -> None:
        metadata = self.metadata(version)
        metadata["verdict"] |= changes
        self._store.replace(version, MODEL_FILE, json.dumps(metadata, indent=1).encode())


def latest_before(version: str | None, versions: Sequence[str]) -> str | None:
    """The last of the versions, oldest first, that is earlier than this one; the last of all without one."""
    earlier = [one for one in versions if version is None or one < version]
    return earlier[-1] if earlier else None
