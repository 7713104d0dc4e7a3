"""What ``jobs`` raises, all of it something the operator can mend.

RilletError
├── ConfigError              rillet.toml is unreadable, or a key of it is unknown or wrong
├── ToolchainError           the JDK, Maven or a jar is missing
└── ServiceError             a process of the local stack did not start, or died
    └── PortInUseError       something else listens where it should
"""

from __future__ import annotations

from rillet.schemas import RilletError


class ConfigError(RilletError):
    """The configuration cannot be used; the message has the file and the key's path."""


class ToolchainError(RilletError):
    """A tool that has to be installed by hand is missing, or a download failed."""


class ServiceError(RilletError):
    """A process of the local stack did not come up or went down."""


class PortInUseError(ServiceError):
    """A port that was asked for is taken."""
