"""The model registry: snapshots on disk, versions, the live pointer, roll-back."""

from stream_ad.registry.model_registry import ModelRegistry, Summary
from stream_ad.registry.snapshot import (
    Arrays,
    RegistryError,
    RegistryUnavailable,
    SchemaMismatch,
    Snapshot,
    SnapshotError,
    require_schema,
)

__all__ = [
    "Arrays",
    "ModelRegistry",
    "RegistryError",
    "RegistryUnavailable",
    "SchemaMismatch",
    "Snapshot",
    "SnapshotError",
    "Summary",
    "require_schema",
]
