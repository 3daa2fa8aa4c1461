"""The simulated plant that demo, tests and benchmarks draw from."""

from stream_ad.simulation.plant import KINDS, SENSORS, Plant, PlantRows

__all__ = ["KINDS", "SENSORS", "Plant", "PlantRows"]
