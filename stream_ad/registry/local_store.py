"""The registry's files in a folder: a local disk, or a volume that several machines share."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from stream_ad.registry.snapshot import RegistryError
from stream_ad.registry.store import STALE_SECONDS, VERSION

POINTER_FILE = "live"
LOCK_FILE = ".lock"
TEMPORARY_PREFIX = ".tmp-"


class LocalStore:
    """Everything is written beside its place and renamed into it.

    Readers look by content: a swapped symbolic link or a network file system sends no event.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check_writable(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._beside("probe") as probe:
                probe.write_bytes(b"")
                probe.unlink()
        except OSError as error:
            raise RegistryError(
                f"registry.path {self.folder} cannot be written ({error.strerror}): mount a volume there, or let "
                "registry.path name a folder that this user may write"
            ) from error

    def versions(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if VERSION.fullmatch(entry.name))

    def add(self, version: str, files: Mapping[str, bytes]) -> None:
        with self._beside(version) as partial:
            partial.mkdir(parents=True)
            for name, content in files.items():
                (partial / name).write_bytes(content)
                to_disk(partial / name)
            to_disk(partial)
            partial.rename(self.folder / version)
        to_disk(self.folder)

    def read(self, version: str, name: str) -> bytes:
        return (self.folder / version / name).read_bytes()

    def replace(self, version: str, name: str, content: bytes) -> None:
        self.write_file(f"{version}/{name}", content)

    def remove(self, version: str) -> None:
        shutil.rmtree(self.folder / version, ignore_errors=True)

    def pointer(self) -> str | None:
        try:
            return (self.folder / POINTER_FILE).read_bytes().decode(errors="replace").strip()
        except OSError:
            return None

    def move_pointer(self, version: str, instead_of: str | None) -> bool:
        with self._locked():
            if self.pointer() != instead_of:
                return False
            self.write_file(POINTER_FILE, f"{version}\n".encode())
            return True

    def read_file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write_file(self, name: str, content: bytes) -> None:
        target = self.folder / name
        with self._beside(target.name) as partial:
            partial.write_bytes(content)
            to_disk(partial)
            partial.replace(target)
        to_disk(target.parent)

    def clean(self) -> None:
        for leftover in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            # Workers that share the folder clean up at the same time: what is gone already is well.
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    remove(leftover)

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        """Where to write before the rename. A failure leaves nothing there: that would keep a full disk full."""
        partial = self.folder / f"{TEMPORARY_PREFIX}{name}-{secrets.token_hex(4)}"
        try:
            yield partial
        except BaseException:
            with suppress(OSError):
                remove(partial)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, also on other machines where the file system has locks; a crash frees it."""
        with (self.folder / LOCK_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def to_disk(path: Path) -> None:
    """Force a file or folder out of the caches, so that a rename never shows what a crash can still lose."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
