"""A snapshot: one model with all that belongs to it, as files that carry their own check sums."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_ad.records import NO_CONTEXT, Context, RecordSchema

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, NDArray[np.generic]]

WEIGHTS_FILE = "weights.safetensors"
WINDOW_FILE = "window.safetensors"
MODEL_FILE = "model.json"
FORMAT_VERSION = 9
"""Goes up with each change of what a stored model holds, the names and shapes of its weights among it."""
READABLE = (6, 7, 8, FORMAT_VERSION)
"""Models of 6 know nothing of keys, those up to 7 of kinds of operation, those up to 8 of close relations."""
NEEDED = frozenset(("created_at", "schema_fingerprint", "features", "description", "report", "verdict", "sha256"))


class RegistryError(Exception):
    """The registry cannot do what was asked; the message says what to do."""


class RegistryUnavailable(RegistryError):
    """The registry does not answer now; it may later."""


class SnapshotError(RegistryError):
    """A snapshot is damaged, incomplete or not there."""


class SchemaMismatch(RegistryError):
    """A model was learned on other features, or another context of them, than the configuration names."""


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
    context: Context = field(default_factory=NO_CONTEXT.copy)
    """`schema.window` and `schema.calendar` by which the rows were extended."""


Read = Callable[[str], bytes]
"""Content of one file of a snapshot, by name. Raises FileNotFoundError."""


def to_files(snapshot: Snapshot) -> dict[str, bytes]:
    """Name and content of each file of a snapshot; the description, which names the others' sums, comes last."""
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save as save_tensors

    files = {WEIGHTS_FILE: save_tensors(snapshot.weights)}
    if snapshot.window is not None:
        files[WINDOW_FILE] = save_arrays({name: np.ascontiguousarray(a) for name, a in snapshot.window.items()})
    metadata = {
        "format": FORMAT_VERSION,
        "created_at": snapshot.created_at,
        "schema_fingerprint": snapshot.schema_fingerprint,
        "features": snapshot.features,
        "context": snapshot.context,
        "description": snapshot.description,
        "report": snapshot.report,
        "verdict": snapshot.verdict,
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "safetensors")},
        "sha256": {name: sha256(content) for name, content in files.items()},
    }
    return files | {MODEL_FILE: json.dumps(without_nan(metadata), indent=1, allow_nan=False).encode()}


def read_metadata(version: str, read: Read) -> dict[str, Any]:
    """model.json of a snapshot. Raises `SnapshotError`."""
    try:
        metadata = json.loads(read(MODEL_FILE))
    except FileNotFoundError:
        raise SnapshotError(f"there is no model {version} in the registry") from None
    except ValueError as error:
        raise SnapshotError(f"model {version}: {MODEL_FILE} cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") not in READABLE:
        raise SnapshotError(
            f"model {version}: {MODEL_FILE} is not of format {FORMAT_VERSION}: if another version of stream_ad has "
            "kept it, the next training replaces it"
        )
    if missing := sorted(NEEDED - metadata.keys()):
        raise SnapshotError(f"model {version}: {MODEL_FILE} lacks {', '.join(missing)}")
    return metadata


def read_snapshot(version: str, read: Read, with_window: bool = True) -> Snapshot:
    """Read a snapshot and check the sum of every file read. Raises `SnapshotError` if anything is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays
    from safetensors.torch import load as load_tensors

    metadata = read_metadata(version, read)
    # The weights always have a sum, whatever the description claims.
    sums = {WEIGHTS_FILE: None} | metadata["sha256"]
    names = [WEIGHTS_FILE, *([WINDOW_FILE] if with_window and WINDOW_FILE in sums else [])]
    content = {name: _checked(version, name, read, sums[name]) for name in names}
    try:
        return Snapshot(
            version=version,
            weights=load_tensors(content[WEIGHTS_FILE]),
            description=metadata["description"],
            schema_fingerprint=metadata["schema_fingerprint"],
            features=metadata["features"],
            report=metadata["report"],
            verdict=metadata["verdict"],
            created_at=metadata["created_at"],
            window=load_arrays(content[WINDOW_FILE]) if WINDOW_FILE in content else None,
            context=metadata["context"],
        )
    except (KeyError, SafetensorError) as error:
        raise SnapshotError(f"model {version} cannot be read: {error!r}") from error


def _checked(version: str, name: str, read: Read, wanted: str | None) -> bytes:
    try:
        content = read(name)
    except FileNotFoundError:
        raise SnapshotError(f"model {version}: {name} is missing") from None
    if sha256(content) != wanted:
        raise SnapshotError(f"model {version}: {name} is damaged (its SHA-256 is not the one in {MODEL_FILE})")
    return content


def require_schema(snapshot: Snapshot, schema: RecordSchema) -> None:
    """Raise `SchemaMismatch` unless the model was learned on these features in this order, and this context."""
    if snapshot.schema_fingerprint == schema.fingerprint:
        return
    afresh = "a registry.path of its own, and it starts afresh there"
    if snapshot.features == list(schema.features):
        raise SchemaMismatch(
            f"model {snapshot.version} was learned with {in_words(snapshot.context)}, the configuration has "
            f"{in_words(schema.context)}: set them back, or give the new ones {afresh}"
        )
    new = [name for name in schema.features if name not in snapshot.features]
    gone = [name for name in snapshot.features if name not in schema.features]
    difference = [f"new: {', '.join(new)}"] * bool(new) + [f"gone: {', '.join(gone)}"] * bool(gone)
    raise SchemaMismatch(
        f"model {snapshot.version} was learned on other features than schema.features names "
        f"({'; '.join(difference) or 'the same ones in another order'}): give this schema {afresh}"
    )


def in_words(context: Context) -> str:
    return f"schema.window = {context['window']} and schema.calendar = {str(context['calendar']).lower()}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def without_nan(value: Any) -> Any:
    """The same data with null for what strict JSON cannot say."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
