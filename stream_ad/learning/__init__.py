"""When and on what to learn: window of inliers, triggers, trainer process, gate, and the swap."""

from stream_ad.learning.adaptive import AdaptiveLevel
from stream_ad.learning.cold_start import ColdStart
from stream_ad.learning.cores import threads_each, usable_cores
from stream_ad.learning.data_report import burst_left_out, findings, unseen_hours
from stream_ad.learning.feedback import RECENT_ROWS, read_labels
from stream_ad.learning.follow_only import FollowOnly
from stream_ad.learning.follower import LoadedModel
from stream_ad.learning.learner import Learner
from stream_ad.learning.settings import LearningSettings
from stream_ad.learning.trainer import Outcome
from stream_ad.learning.window import InlierWindow

__all__ = [
    "RECENT_ROWS",
    "AdaptiveLevel",
    "ColdStart",
    "FollowOnly",
    "InlierWindow",
    "Learner",
    "LearningSettings",
    "LoadedModel",
    "Outcome",
    "burst_left_out",
    "findings",
    "read_labels",
    "threads_each",
    "unseen_hours",
    "usable_cores",
]
