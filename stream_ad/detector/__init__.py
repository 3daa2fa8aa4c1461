"""The hierarchical detector of arXiv 2010.05119, in pure PyTorch: knows no Kafka, no config file, no clock."""

from stream_ad.detector.detector import Detector, Findings, NotFittedError, choose_device
from stream_ad.detector.fitting import LEAST_ROWS, TrainingError
from stream_ad.detector.recipe import Recipe

__all__ = ["LEAST_ROWS", "Detector", "Findings", "NotFittedError", "Recipe", "TrainingError", "choose_device"]
