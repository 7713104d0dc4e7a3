"""What the demo raises beside what its parts do.

RilletError
└── DemoError    the loop did not come to its end: a request was not answered, or a service died or did not catch up
"""

from __future__ import annotations

from rillet.schemas import RilletError


class DemoError(RilletError):
    """The demo could not be run to its end; the message says where it stopped and which log to read."""
