"""How to reach Kafka, as one value: the address and the settings that every client of ours shares.

All clients are made here, so that a bad setting, a refused login and a broker that is away are told apart and named
the same everywhere, and no secret gets into a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from rillet.connectors.client_settings import is_secret
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError, ConnectorError, KafkaSettingsError

_LOGIN_FAILED = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
}
_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}

_TOO_SLOW = (KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT)

Client = TypeVar("Client")


class BrokerErrors:
    """What one client last heard of trouble with its brokers; librdkafka reports it beside the calls that fail of it.

    It is heard only while the client is polled.
    """

    def __init__(self) -> None:
        self.last: KafkaError | None = None
        #: the broker answered and did not let the client in
        self.refusal: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Takes one error (librdkafka's ``error_cb``)."""
        if error.code() in _LOGIN_FAILED:
            self.refusal = error
        # "All brokers are down" only says again what was said of each.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last = error

    def clear(self) -> None:
        """The broker answers again."""
        self.last = self.refusal = None


@dataclass(frozen=True, slots=True, repr=False)
class KafkaConnection:
    """An address and how to get in. Compared by value; ``repr`` shows no values of settings.

    :param bootstrap_servers: host:port, several separated by commas.
    :param settings: of librdkafka, with their secrets; see ``[kafka.client]``.
    :param hidden: names of settings whose values no message may show, beside those that are secrets by their name.
    """

    bootstrap_servers: str
    settings: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()

    @classmethod
    def of(cls, kafka: KafkaConnection | str) -> KafkaConnection:
        """The connection itself, or a plaintext one to an address."""
        return cls(kafka) if isinstance(kafka, str) else kafka

    def __str__(self) -> str:
        return self.bootstrap_servers

    def __repr__(self) -> str:
        return f"KafkaConnection({self.bootstrap_servers!r}, settings={sorted(self.settings)})"

    @property
    def plaintext(self) -> bool:
        """Whether it neither encrypts nor logs in."""
        return self.settings.get("security.protocol", "plaintext").lower() == "plaintext"

    def producer(self, settings: Mapping[str, Any], errors: BrokerErrors | None = None) -> Producer:
        """A producer with settings of its own.

        :raises KafkaSettingsError: librdkafka does not take a setting.
        """
        return self._make(Producer, settings, errors)

    def consumer(self, settings: Mapping[str, Any], errors: BrokerErrors | None = None) -> Consumer:
        """A consumer with settings of its own.

        :raises KafkaSettingsError: librdkafka does not take a setting.
        """
        return self._make(Consumer, settings, errors)

    def admin(self, errors: BrokerErrors | None = None) -> AdminClient:
        """A client that makes and describes topics.

        :raises KafkaSettingsError: librdkafka does not take a setting.
        """
        return self._make(AdminClient, {}, errors)

    def explain(self, cause: KafkaException | KafkaError, errors: BrokerErrors | None = None) -> ConnectorError:
        """Why a call failed, as the error to raise: the broker refused, or none answers."""
        error: KafkaError = cause.args[0] if isinstance(cause, KafkaException) else cause
        if errors is not None:
            if errors.refusal is not None and error.code() not in _NOT_ALLOWED:
                error = errors.refusal
            elif errors.last is not None and error.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):
                error = errors.last
        text = self.redact(error.str())
        if error.code() in _LOGIN_FAILED:
            return BrokerRefusedError(
                f"the Kafka broker at {self} did not let us in ({text}): check [kafka.client], "
                "security.protocol, sasl.* and ssl.* above all"
            )
        if error.code() in _NOT_ALLOWED:
            return BrokerRefusedError(
                f"the Kafka broker at {self} does not allow this ({text}): "
                "give the user of [kafka.client] the rights (ACLs) for it"
            )
        if error.code() in _TOO_SLOW:
            return BrokerUnavailableError(
                f"no Kafka broker answers at {self} in time ({text}): one that runs there is slow or overloaded, or wants"
                " other [kafka.client] settings; where none runs, start one with `rillet up --broker-only`"
            )
        return BrokerUnavailableError(
            f"no Kafka broker answers at {self} ({text}): start one with `rillet up --broker-only`, "
            "or set [kafka] bootstrap_servers and [kafka.client]"
        )

    def redact(self, text: str) -> str:
        """A message of a client as one line, without the secrets of the settings."""
        secrets = {value for name, value in self.settings.items() if value and (name in self.hidden or is_secret(name))}
        # The longest first: a secret may be a part of another one.
        for value in sorted(secrets, key=len, reverse=True):
            text = text.replace(value, "***")
        return " ".join(text.split())

    def _make(
        self, kind: Callable[[dict[str, Any]], Client], settings: Mapping[str, Any], errors: BrokerErrors | None
    ) -> Client:
        # librdkafka's own prints are off: errors reach the caller as exceptions.
        shared = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "error_cb": errors or BrokerErrors()}
        try:
            return kind({**self.settings, **shared, **settings})
        except KafkaException as error:
            text = self.redact(error.args[0].str())
            raise KafkaSettingsError(f"[kafka.client] cannot be used: {text}") from None
