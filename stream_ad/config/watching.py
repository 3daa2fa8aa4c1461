"""A configuration file that changes while the worker runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from stream_ad.config.loading import ConfigError, Problem, load

LIVE = frozenset(
    (
        "alerts.cooldown",
        "alerts.false_alarm_rate",
        "alerts.per_day",
        "monitoring.log_level",
        "training.drift",
        "training.every_rows",
        "training.every_seconds",
        "training.min_interval_seconds",
        "training.min_rows",
        "training.on_regime_change",
        "training.reference",
        "training.rollback_after",
        "training.timeout_seconds",
    )
)
"""What can change without a restart."""


class ConfigWatcher:
    """Looks at a file's content now and then and says what changed.

    By content, not by file events: Kubernetes changes a mounted ConfigMap by swapping a symbolic link.
    """

    def __init__(self, path: Path, overrides: Sequence[str] = ()) -> None:
        """Raises `ConfigError` if the file, as it is now, cannot be used."""
        self._path = path
        self._overrides = overrides
        self._dealt_with = self._standing = self._content()
        self.config = load(path, overrides)
        """What holds now."""

    def look(self) -> list[str] | None:
        """Take up a changed file and return the paths of the keys that changed; None if the file is the same.

        A change counts once it stands still from one look to the next: half a file is no configuration.
        Raises `ConfigError`, once for each content, if it is wrong or changes what cannot change while the
        worker runs; `config` is then what it was.
        """
        content = self._content()
        stands_still, self._standing = content == self._standing, content
        if content == self._dealt_with or not stands_still:
            return None
        self._dealt_with = content
        config = load(self._path, self._overrides)
        changed = list(differences(self.config, config))
        if fixed := [Problem(path, "takes a restart to change") for path in changed if path not in LIVE]:
            raise ConfigError(str(self._path), fixed)
        self.config = config
        return changed

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


def differences(old: BaseModel, new: BaseModel, above: str = "") -> Iterator[str]:
    """Dotted paths of the fields in which two configurations differ.

    >>> from stream_ad.config import Training
    >>> list(differences(Training(), Training(min_rows=500)))
    ['min_rows']
    """
    for name, field in type(old).model_fields.items():
        path = f"{above}{field.alias or name}"
        before, after = getattr(old, name), getattr(new, name, None)
        if isinstance(before, BaseModel) and isinstance(after, type(before)):
            yield from differences(before, after, f"{path}.")
        elif before != after:
            yield path
