"""What ``pipelines`` raises beyond the errors of what it is wired of.

RilletError
├── BatchStageError          the batch stage cannot begin, go on or be left as asked
└── JobFailedError           a Flink job has ended by failing
"""

from __future__ import annotations

from rillet.schemas import RilletError


class BatchStageError(RilletError):
    """Files, options and what the model has learned so far do not fit together; the message says what does."""


class JobFailedError(RilletError):
    """A Flink job has failed for good; the message has Flink's root cause."""
