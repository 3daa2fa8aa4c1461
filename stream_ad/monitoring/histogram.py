"""A histogram that takes whole batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BatchHistogram(Collector):
    """As prometheus_client's Histogram, but it observes arrays: a loop in Python over each row would cost more
    than scoring it. What is not a finite number is never observed: one NaN would make the sum NaN for ever."""

    def __init__(self, name: str, documentation: str, edges: Sequence[float]) -> None:
        """`edges` are the upper bounds of the buckets (le), ascending; +Inf is added."""
        self._name = name
        self._documentation = documentation
        self._edges = np.array(edges)
        self._counts = np.zeros(len(edges) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: NDArray[np.float64]) -> None:
        """Take values [n]."""
        values = values[np.isfinite(values)]
        bucket = np.searchsorted(self._edges, values, side="left")
        counts = np.bincount(bucket, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            cumulative, total = np.cumsum(self._counts).tolist(), self._sum
        names = [*map(floatToGoString, self._edges.tolist()), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], list(zip(names, cumulative, strict=True)), total)
        yield family
