"""Errors say the same in another process."""

from __future__ import annotations

import pickle

from rillet.schemas import SpecMismatchError


def test_an_error_that_was_made_of_more_than_its_message_comes_out_of_a_pool_of_processes() -> None:
    """One that does not would look like a process that has died."""
    error = pickle.loads(pickle.dumps(SpecMismatchError("written under another spec", 5)))  # noqa: S301
    assert (type(error), str(error), error.found) == (SpecMismatchError, "written under another spec", 5)
