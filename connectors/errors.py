"""What ``connectors`` raises, all of it something the operator can mend.

RilletError
└── ConnectorError
    ├── BrokerUnavailableError   no Kafka broker answers at the address
    ├── TopicError               a topic is missing or was made otherwise than needed
    └── DeliveryError            the broker refused records, or did not take them in time
"""

from __future__ import annotations

from rillet.schemas import RilletError


class ConnectorError(RilletError):
    """The root of what this package raises."""


class BrokerUnavailableError(ConnectorError):
    """No Kafka broker answers at the address."""


class TopicError(ConnectorError):
    """A topic is missing, or exists with other settings than needed."""


class DeliveryError(ConnectorError):
    """Records were not acknowledged by the broker."""
