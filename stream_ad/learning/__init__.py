"""When and on what to learn: window of inliers, triggers, trainer process, gate, and the swap."""

from stream_ad.learning.cold_start import ColdStart
from stream_ad.learning.cores import threads_each, usable_cores
from stream_ad.learning.follower import LoadedModel
from stream_ad.learning.learner import Learner, LearningSettings
from stream_ad.learning.trainer import Outcome

__all__ = [
    "ColdStart",
    "Learner",
    "LearningSettings",
    "LoadedModel",
    "Outcome",
    "threads_each",
    "usable_cores",
]
