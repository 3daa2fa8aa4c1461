"""The registry's files in an object store, by fsspec: s3://bucket/prefix and the like."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from stream_ad.registry.snapshot import MODEL_FILE, RegistryError, RegistryUnavailable
from stream_ad.registry.store import STALE_SECONDS, VERSION

POINTERS = "live"
POINTERS_KEPT = 20
NOT_MENDED_BY_WAITING = (PermissionError, ImportError, ValueError)
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")


class ObjectStore:
    """There is no rename here, so a snapshot is there once its description is: that is written last.

    The live pointer is a journal, `live/0000000042` and so on, of which the last entry counts. An entry is
    only ever created, never replaced: a conditional write (`If-None-Match: *`), so of several writers that
    have seen the same last entry exactly one gets the next.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._teaching_errors("be opened"):
            import fsspec

            # A listing that is remembered would hide what other processes write.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        self._pointer: tuple[int, str | None] = (0, None)

    def check_writable(self) -> None:
        probe = f"{self._root}/probe-{secrets.token_hex(4)}"
        with self._teaching_errors("be written"):
            try:
                self._fs.pipe_file(probe, b"probe")
                self._fs.rm_file(probe)
            except FileNotFoundError as error:
                raise self._no_bucket(error) from error

    def versions(self) -> list[str]:
        with self._teaching_errors("be read"):
            return sorted(version for version, names in self._snapshots().items() if MODEL_FILE in names)

    def add(self, version: str, files: Mapping[str, bytes]) -> None:
        with self._teaching_errors("be written"):
            for name, content in files.items():
                self._fs.pipe_file(f"{self._root}/{version}/{name}", content)

    def read(self, version: str, name: str) -> bytes:
        return self.read_file(f"{version}/{name}")

    def replace(self, version: str, name: str, content: bytes) -> None:
        self.write_file(f"{version}/{name}", content)

    def remove(self, version: str) -> None:
        with self._teaching_errors("be written"), suppress(FileNotFoundError):
            # The description first: what is half deleted is no snapshot any more.
            self._fs.rm_file(f"{self._root}/{version}/{MODEL_FILE}")
            self._fs.rm(f"{self._root}/{version}", recursive=True)

    def pointer(self) -> str | None:
        with self._teaching_errors("be read"):
            last = max(self._entries(), default=0)
            # An entry never changes: the last one is read once.
            if last != self._pointer[0]:
                self._pointer = (last, self._fs.cat_file(self._entry(last)).decode(errors="replace").strip())
            return self._pointer[1]

    def move_pointer(self, version: str, instead_of: str | None) -> bool:
        if self.pointer() != instead_of:
            return False
        mine = self._pointer[0] + 1
        with self._teaching_errors("be written"):
            try:
                self._fs.pipe_file(self._entry(mine), f"{version}\n".encode(), mode="create")
            except FileExistsError:
                return False
            entries = sorted(self._entries())
            for entry in entries[:-POINTERS_KEPT]:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._entry(entry))
        # A writer that slept for so long may have made an entry that was deleted long ago.
        return mine in entries[-POINTERS_KEPT:]

    def read_file(self, name: str) -> bytes:
        with self._teaching_errors("be read"):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def write_file(self, name: str, content: bytes) -> None:
        with self._teaching_errors("be written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def clean(self) -> None:
        now = datetime.now(UTC)
        with self._teaching_errors("be written"):
            for version, names in self._snapshots().items():
                age = now - datetime.strptime(version[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
                if MODEL_FILE not in names and age.total_seconds() > STALE_SECONDS:
                    self._fs.rm(f"{self._root}/{version}", recursive=True)

    def _snapshots(self) -> dict[str, list[str]]:
        """The names of the files that are there of each version, complete or not."""
        found: dict[str, list[str]] = {}
        for path in self._files():
            version, _, name = path.partition("/")
            if name and VERSION.fullmatch(version):
                found.setdefault(version, []).append(name)
        return found

    def _entries(self) -> list[int]:
        """The numbers of the pointer's entries that are there."""
        names = (name.rpartition("/")[2] for name in self._files(POINTERS))
        return [int(name) for name in names if name.isdecimal()]

    def _entry(self, number: int) -> str:
        return f"{self._root}/{POINTERS}/{number:010d}"

    def _files(self, below: str = "") -> list[str]:
        """Paths, relative to the root, of all files below a folder."""
        try:
            found = self._fs.find(f"{self._root}/{below}".rstrip("/"))
        except FileNotFoundError as error:
            raise self._no_bucket(error) from error
        return [path.removeprefix(f"{self._root}/") for path in found]

    def _no_bucket(self, error: FileNotFoundError) -> RegistryError:
        return RegistryError(f"registry.path {self.url}: {error}; make the bucket first")

    @contextmanager
    def _teaching_errors(self, what: str) -> Iterator[None]:
        """Tell a store that is away for now from one that will never let us in; missing files pass."""
        try:
            yield
        except (RegistryError, FileNotFoundError):
            raise
        except NOT_MENDED_BY_WAITING as error:
            hint = "; for s3:// install stream-ad[s3]" if isinstance(error, ImportError) else ""
            raise RegistryError(f"registry.path {self.url} cannot {what}: {error}{hint}") from error
        except Exception as error:  # each store's client raises errors of its own
            kind = RegistryError if type(error).__name__ in NO_CREDENTIALS else RegistryUnavailable
            raise kind(f"registry.path {self.url} cannot {what}: {error!r}") from error
