"""The online joiner as pure logic: features and actions in, labelled example blocks out."""

from rillet.joiner.alarms import Alarms
from rillet.joiner.config import MAX_BUCKETS, JoinerConfig
from rillet.joiner.counters import Counters, NameCounts, RecentCounts
from rillet.joiner.errors import JoinerError, StoreError, WaitingFullError
from rillet.joiner.gathering import GatheringBuilder
from rillet.joiner.header import END_OF_TIME_MS
from rillet.joiner.held_time import HeldTime
from rillet.joiner.join import Joiner
from rillet.joiner.kept_state import Kept, KeptSettings, Remedies, check_kept
from rillet.joiner.metrics import JoinMetrics, LackMetrics, RefusalMetrics
from rillet.joiner.request_range import RequestRange
from rillet.joiner.runs import JoinerRun, JoinerRuns
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.spec_joiners import BucketStates, SpecJoiners
from rillet.joiner.state import BucketState

__all__ = [
    "END_OF_TIME_MS",
    "MAX_BUCKETS",
    "Alarms",
    "BucketState",
    "BucketStates",
    "Counters",
    "GatheringBuilder",
    "HeldTime",
    "JoinMetrics",
    "Joiner",
    "JoinerConfig",
    "JoinerError",
    "JoinerRun",
    "JoinerRuns",
    "Kept",
    "KeptSettings",
    "LackMetrics",
    "NameCounts",
    "RecentCounts",
    "RefusalMetrics",
    "Remedies",
    "RequestRange",
    "SliceSchedule",
    "SpecJoiners",
    "StoreError",
    "WaitingFullError",
    "check_kept",
]
