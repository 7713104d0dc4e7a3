"""What ``sources`` raises.

RilletError
└── SourceError     the ``[sources]`` tables do not fit the feature spec, or a schema file cannot be used

A record that does not fit is a :class:`rillet.schemas.RecordError` that begins with the path of the field.
"""

from __future__ import annotations

from rillet.schemas import RilletError


class SourceError(RilletError):
    """``[sources]`` cannot be used; the message has the key's path."""
