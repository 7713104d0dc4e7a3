"""Errors of benchmarks."""

from __future__ import annotations

from rillet.schemas import RilletError


class BenchError(RilletError):
    """A benchmark cannot be run, or what it measured went wrong."""
