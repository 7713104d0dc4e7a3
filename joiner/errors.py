"""Errors of the joiner."""

from __future__ import annotations

from rillet.schemas import RecordError, RilletError


class JoinerError(RilletError):
    """The join cannot go on, or its kept state cannot be read."""


class WaitingFullError(RecordError):
    """An action whose feature event has not come, and for which there is no room to wait."""


class StoreError(JoinerError):
    """The local store cannot be written or read; it is a cache and may be rebuilt."""
