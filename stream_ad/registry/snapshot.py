"""A snapshot: one model with all that belongs to it, as files that carry their own check sums."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, NDArray[np.generic]]

WEIGHTS_FILE = "weights.safetensors"
WINDOW_FILE = "window.safetensors"
MODEL_FILE = "model.json"
FORMAT_VERSION = 1
NEEDED = frozenset(("created_at", "schema_fingerprint", "features", "description", "report", "verdict", "sha256"))


class RegistryError(Exception):
    """The registry cannot do what was asked; the message says what to do."""


class SnapshotError(RegistryError):
    """A snapshot is damaged, incomplete or not there."""


class SchemaMismatch(RegistryError):
    """A model was learned on other features than the configuration names."""


@dataclass(slots=True)
class Snapshot:
    """A model: what was learned, on what, and how it did."""

    version: str
    """Empty until it is saved."""
    weights: dict[str, Tensor]
    description: dict[str, Any]
    """What the detector needs beside the weights to be rebuilt."""
    schema_fingerprint: str
    features: list[str]
    report: dict[str, Any]
    """The training report."""
    verdict: dict[str, Any]
    """The gate's: `accepted` and `reasons`."""
    created_at: float
    """Seconds since the epoch."""
    window: Arrays | None = None


def write_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write all files of a snapshot into an empty folder, each to the disk before the next."""
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file as save_tensors

    save_tensors(snapshot.weights, folder / WEIGHTS_FILE)
    files = [WEIGHTS_FILE]
    if snapshot.window is not None:
        save_arrays({name: np.ascontiguousarray(a) for name, a in snapshot.window.items()}, folder / WINDOW_FILE)
        files.append(WINDOW_FILE)
    metadata = {
        "format": FORMAT_VERSION,
        "created_at": snapshot.created_at,
        "schema_fingerprint": snapshot.schema_fingerprint,
        "features": snapshot.features,
        "description": snapshot.description,
        "report": snapshot.report,
        "verdict": snapshot.verdict,
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "safetensors")},
        "sha256": {name: sha256(folder / name) for name in files},
    }
    (folder / MODEL_FILE).write_text(json.dumps(without_nan(metadata), indent=1, allow_nan=False))
    for name in [*files, MODEL_FILE]:
        to_disk(folder / name)
    to_disk(folder)


def read_metadata(folder: Path) -> dict[str, Any]:
    """model.json of a snapshot. Raises `SnapshotError`."""
    try:
        metadata = json.loads((folder / MODEL_FILE).read_text())
    except FileNotFoundError:
        raise SnapshotError(f"there is no model {folder.name} in {folder.parent}") from None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{folder / MODEL_FILE} cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_VERSION:
        raise SnapshotError(f"{folder / MODEL_FILE} is not of format {FORMAT_VERSION}")
    if missing := sorted(NEEDED - metadata.keys()):
        raise SnapshotError(f"{folder / MODEL_FILE} lacks {', '.join(missing)}")
    return metadata


def read_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot and check every file's sum. Raises `SnapshotError` if anything is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file as load_arrays
    from safetensors.torch import load_file as load_tensors

    metadata = read_metadata(folder)
    # The weights always have a sum, whatever the description claims.
    for name, wanted in ({WEIGHTS_FILE: None} | metadata["sha256"]).items():
        if not (folder / name).is_file():
            raise SnapshotError(f"model {folder.name}: {name} is missing")
        if sha256(folder / name) != wanted:
            raise SnapshotError(f"model {folder.name}: {name} is damaged (its SHA-256 is not the one in {MODEL_FILE})")
    try:
        window = load_arrays(folder / WINDOW_FILE) if WINDOW_FILE in metadata["sha256"] else None
        return Snapshot(
            version=folder.name,
            weights=load_tensors(folder / WEIGHTS_FILE),
            description=metadata["description"],
            schema_fingerprint=metadata["schema_fingerprint"],
            features=metadata["features"],
            report=metadata["report"],
            verdict=metadata["verdict"],
            created_at=metadata["created_at"],
            window=window,
        )
    except (KeyError, OSError, SafetensorError) as error:
        raise SnapshotError(f"model {folder.name} cannot be read: {error!r}") from error


def require_schema(snapshot: Snapshot, fingerprint: str, features: list[str]) -> None:
    """Raise `SchemaMismatch` unless the model was learned on these features in this order."""
    if snapshot.schema_fingerprint == fingerprint:
        return
    new = [name for name in features if name not in snapshot.features]
    gone = [name for name in snapshot.features if name not in features]
    difference = [f"new: {', '.join(new)}"] * bool(new) + [f"gone: {', '.join(gone)}"] * bool(gone)
    raise SchemaMismatch(
        f"model {snapshot.version} was learned on other features than schema.features names "
        f"({'; '.join(difference) or 'the same ones in another order'}): give this schema a registry.path of its "
        "own, and it starts afresh there"
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_disk(path: Path) -> None:
    """Force a file or folder out of the caches, so that a rename never shows what a crash can still lose."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_nan(value: Any) -> Any:
    """The same data with null for what strict JSON cannot say."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
