"""Where the registry's files are kept: what `ModelRegistry` asks of a folder or an object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

VERSION = re.compile(r"\d{8}T\d{9}-[0-9a-f]{4}")
"""Time of creation (UTC, milliseconds) and four random digits. Versions sort by age, also where the clock is set
back: see `ModelRegistry.save`."""
STALE_SECONDS = 3600.0
"""What an interrupted write has left is deleted when it is that old: another process may still be writing."""


class Store(Protocol):
    """Keeps snapshots, a pointer to the live one, and a few files beside them.

    All methods raise `RegistryUnavailable` if the store does not answer and `RegistryError` for what waiting
    cannot mend.
    """

    def check_writable(self) -> None:
        """Raise `RegistryError` if nothing can be written here."""

    def versions(self) -> list[str]:
        """All snapshots that are complete, oldest first."""

    def add(self, version: str, files: Mapping[str, bytes]) -> None:
        """Store a snapshot: readers see all of its files or no snapshot. The last file comes last."""

    def read(self, version: str, name: str) -> bytes:
        """A file of a snapshot. Raises FileNotFoundError."""

    def replace(self, version: str, name: str, content: bytes) -> None:
        """Write a file of a snapshot that is there anew, in one step."""

    def remove(self, version: str) -> None:
        """Delete a snapshot; nothing happens if it is gone already."""

    def pointer(self) -> str | None:
        """What the live pointer says, which may be torn; None if there never was one."""

    def move_pointer(self, version: str, instead_of: str | None) -> bool:
        """Point at `version` if the pointer still says `instead_of`, in one step.

        Of several writers with the same `instead_of` one succeeds; the others get False and change nothing.
        """

    def read_file(self, name: str) -> bytes:
        """A file beside the snapshots. Raises FileNotFoundError."""

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file beside the snapshots in one step: whole or not at all."""

    def clean(self) -> None:
        """Delete what interrupted writes have left."""
