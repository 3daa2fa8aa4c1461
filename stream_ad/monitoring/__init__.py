"""How the worker is watched: metrics, health, logs."""

from stream_ad.monitoring.health import MonitoringServer
from stream_ad.monitoring.logs import OncePerMinute, configure_logs
from stream_ad.monitoring.metrics import Metrics

__all__ = ["Metrics", "MonitoringServer", "OncePerMinute", "configure_logs"]
