"""What ``connectors`` raises, all of it something the operator can mend.

RilletError
└── ConnectorError
    ├── KafkaSettingsError       a setting in [kafka.client] or [kafka.flink] that cannot be used
    ├── BrokerUnavailableError   no Kafka broker answers at the address
    ├── BrokerRefusedError       a broker answers, but does not let this client in, or not do this
    ├── TopicError               a topic is missing or was made otherwise than needed
    ├── DeliveryError            the broker refused records, or did not take them in time
    │   └── IncompleteResendError    of the records of dead letters, with those that it took and did not take
    ├── ResendError              a dead letter that cannot be sent again
    ├── RegistryUnavailableError a schema registry does not answer
    │   └── RegistryRefusedError     it answers, and asks for a password
    ├── ExampleFilesError        Parquet files of examples are missing, damaged, or of another spec or writer
    └── MetricFilesError         files of metrics cannot be written where the configuration wants them
"""

from __future__ import annotations

from collections.abc import Sequence

from rillet.schemas import DeadLetter, RilletError


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


class IncompleteResendError(DeliveryError):
    """Not all records of dead letters were acknowledged.

    :ivar acknowledged: letters whose records are on their topics.
    :ivar unacknowledged: the others; a record that was on its way when the time was over may have arrived.
    """

    def __init__(
        self, message: str, *, acknowledged: Sequence[DeadLetter], unacknowledged: Sequence[DeadLetter]
    ) -> None:
        super().__init__(message)
        self.acknowledged = tuple(acknowledged)
        self.unacknowledged = tuple(unacknowledged)


class ResendError(ConnectorError):
    """A dead letter that cannot be sent again, such as one that does not hold the whole record."""


class RegistryUnavailableError(ConnectorError):
    """The schema registry does not answer: nothing is known of the record, so it is no dead letter."""


class RegistryRefusedError(RegistryUnavailableError):
    """The schema registry does not let this client read. Waiting does not mend it."""


class ExampleFilesError(ConnectorError):
    """Files of examples that are missing, damaged, of another spec, or written by someone else at the same time."""


class MetricFilesError(ConnectorError):
    """A file of metrics cannot be written, or the library for it is missing; the message begins with the setting."""
