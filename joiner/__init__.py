"""The online joiner as pure logic: features and actions in, labelled example blocks out."""

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError, StoreError
from rillet.joiner.machine import END_OF_TIME_MS, Counters, Joiner
from rillet.joiner.slices import Timeline
from rillet.joiner.state import BucketState, JournalName

__all__ = [
    "END_OF_TIME_MS",
    "BucketState",
    "Counters",
    "Joiner",
    "JoinerConfig",
    "JoinerError",
    "JournalName",
    "StoreError",
    "Timeline",
]
