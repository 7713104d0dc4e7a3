"""The online joiner as pure logic: features and actions in, labelled example blocks out."""

from joiner.config import JoinerConfig
from joiner.errors import JoinerError, StoreError
from joiner.machine import END_OF_TIME_MS, Counters, Joiner
from joiner.slices import Timeline
from joiner.state import BucketState, JournalName

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
