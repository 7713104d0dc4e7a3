"""What ``connectors`` raises, all of it something the operator can mend.

RilletError
└── ConnectorError
    ├── KafkaSettingsError       a setting in [kafka.client] or [kafka.flink] that cannot be used
    ├── BrokerUnavailableError   no Kafka broker answers at the address
    ├── BrokerRefusedError       a broker answers, but does not let this client in, or not do this
    ├── TopicError               a topic is missing or was made otherwise than needed
    ├── DeliveryError            the broker refused records, or did not take them in time
    └── ResendError              a dead letter that cannot be sent again
"""

from __future__ import annotations

from rillet.schemas import RilletError


class ConnectorError(RilletError):
    """The root of what this package raises."""


class KafkaSettingsError(ConnectorError, ValueError):
    """A setting of the Kafka client is unknown, has a bad value or is not the user's to set.

    The message begins with the name of the setting. Also a ValueError, as every wrong key of the configuration is.
    """


class BrokerUnavailableError(ConnectorError):
    """No Kafka broker answers at the address."""


class BrokerRefusedError(ConnectorError):
    """Authentication, TLS handshake or authorization failed. Waiting does not mend it."""


class TopicError(ConnectorError):
    """A topic is missing, or exists with other settings than needed."""


class DeliveryError(ConnectorError):
    """Records were not acknowledged by the broker."""


class ResendError(ConnectorError):
    """A dead letter that cannot be sent again, such as one that does not hold the whole record."""
