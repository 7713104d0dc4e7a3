"""What ``audit`` raises."""

from __future__ import annotations

from rillet.schemas import RilletError


class AuditError(RilletError):
    """Topics that cannot be audited, because no single joiner can have written them."""
