"""stream_ad: anomaly detection on streams of tabular and sensor data, without labels.

>>> import stream_ad
>>> stream_ad.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_ad.config import Config
    from stream_ad.detector import Detector
    from stream_ad.worker import Worker

__version__ = "0.1.0"
__all__ = ["Config", "Detector", "Worker", "__version__"]

_HOMES = {"Config": "stream_ad.config", "Detector": "stream_ad.detector", "Worker": "stream_ad.worker"}


def __getattr__(name: str) -> Any:
    """Import on first use: `import stream_ad` alone loads neither torch nor Kafka."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stream_ad' has no attribute {name!r}")
