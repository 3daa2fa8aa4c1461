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
            probe = self._temporary("probe")
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
        partial = self._temporary(version)
        partial.mkdir(parents=True)
        try:
            for name, content in files.items():
                (partial / name).write_bytes(content)
                to_disk(partial / name)
            to_disk(partial)
            partial.rename(self.folder / version)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        to_disk(self.folder)

    def read(self, version: str, name: str) -> bytes:
        return (self.folder / version / name).read_bytes()

    def replace(self, version: str, name: str, content: bytes) -> None:
        partial = self._temporary(name)
        partial.write_bytes(content)
        to_disk(partial)
        partial.replace(self.folder / version / name)
        to_disk(self.folder / version)

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
        partial = self._temporary(name)
        partial.write_bytes(content)
        to_disk(partial)
        partial.replace(self.folder / name)
        to_disk(self.folder)

    def clean(self) -> None:
        for leftover in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            # Workers that share the folder clean up at the same time: what is gone already is well.
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    remove = shutil.rmtree if leftover.is_dir() else Path.unlink
                    remove(leftover)

    def _temporary(self, name: str) -> Path:
        return self.folder / f"{TEMPORARY_PREFIX}{name}-{secrets.token_hex(4)}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, also on other machines where the file system has locks; a crash frees it."""
        with (self.folder / LOCK_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def to_disk(path: Path) -> None:
    """Force a file or folder out of the caches, so that a rename never shows what a crash can still lose."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
