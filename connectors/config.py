"""The ``[kafka]`` tables of rillet.toml: where the broker is, how to get in, and what the topics are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from rillet.connectors.client_settings import Secret, Settings, check_settings, plain_settings, resolve_settings
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import KafkaSettingsError
from rillet.connectors.flink_settings import flink_settings
from rillet.schemas.ranges import check_above_zero

Service = Literal["join", "train", "serve", "dump"]

#: the topics that a service reads or writes; it needs rights to no others
_TOPICS_OF: dict[Service, tuple[str, ...]] = {
    "join": ("features", "actions", "examples", "dead_letters"),
    "train": ("examples", "deltas", "dead_letters"),
    "serve": ("features", "deltas"),
    "dump": ("examples", "dead_letters"),
}


@dataclass(frozen=True, slots=True)
class TopicNames:
    """What the topics of one loop are called: letters, digits, `.`, `_` and `-`, each name once."""

    #: what was shown, with its features: written by servers or applications, read by the joiner
    features: str = "features"
    #: what users did: written by applications, read by the joiner
    actions: str = "actions"
    #: labelled rows: written by the joiner, read by trainer and dump
    examples: str = "examples"
    #: rows of the model that changed: written by the trainer, read by servers
    deltas: str = "deltas"
    #: records that joiner, trainer or dump cannot use, with the reason
    dead_letters: str = "dead_letters"

    def __post_init__(self) -> None:
        names = list(asdict(self).values())
        for name in names:
            if name in (".", "..") or not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name):
                raise ValueError(f"{name!r} is no name of a Kafka topic: letters, digits, '.', '_' and '-' only")
        if len(set(names)) < len(names):
            raise ValueError(f"every topic needs a name of its own, found {', '.join(map(repr, names))}")


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the broker is, and how the topics are made that do not exist yet."""

    #: host:port of a broker, several separated by commas; RILLET_KAFKA_BOOTSTRAP_SERVERS and --bootstrap-servers go before it
    bootstrap_servers: str = "127.0.0.1:9092"
    topics: TopicNames = field(default_factory=TopicNames)
    #: partitions of each of features and actions, when they are made
    partitions: int = 2
    #: partitions of examples, when it is made; deltas and dead_letters have one
    examples_partitions: int = 1
    #: copies of every topic that is made; 3 on a real cluster
    replication: int = 1
    #: settings of librdkafka, for TLS and passwords above all: see operations/kafka-security.md
    client: dict[str, str | Secret] = field(default_factory=dict)
    #: settings of Flink's Java client for Kafka, added to what is translated from ``client``, or in its place
    flink: dict[str, str | Secret] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_above_zero(self, "partitions", "examples_partitions", "replication")
        for server in self.bootstrap_servers.split(","):
            # librdkafka would take 9092 for a missing port, Flink's client none.
            if not re.fullmatch(r"\s*(\[[^\s\[\]]+\]|[^\s:/\[\]]+):[0-9]{1,5}\s*", server):
                raise ValueError(
                    f"bootstrap_servers: {server!r} is no HOST:PORT; several are separated by commas, such as"
                    " kafka-1:9092,kafka-2:9092"
                )
        for table in ("client", "flink"):
            try:
                check_settings(getattr(self, table))
            except KafkaSettingsError as error:
                raise KafkaSettingsError(f"{table}.{error}") from None

    @property
    def topic_partitions(self) -> dict[str, int]:
        """Name and number of partitions of every topic."""
        topics = self.topics
        return {
            topics.features: self.partitions,
            topics.actions: self.partitions,
            topics.examples: self.examples_partitions,
            topics.deltas: 1,
            topics.dead_letters: 1,
        }

    def topic_partitions_of(self, service: Service) -> dict[str, int]:
        """Name and number of partitions of the topics that a service reads or writes."""
        names = {getattr(self.topics, topic) for topic in _TOPICS_OF[service]}
        return {name: count for name, count in self.topic_partitions.items() if name in names}

    @property
    def connection(self) -> KafkaConnection:
        """The connection that all clients of this configuration make.

        :raises KafkaSettingsError: a secret was not resolved.
        """
        hidden = frozenset(name for name, value in self.client.items() if isinstance(value, Secret))
        return KafkaConnection(self.bootstrap_servers, plain_settings(self.client), hidden)

    @property
    def flink_settings(self) -> dict[str, str]:
        """The same connection for Flink's Kafka connector, without the address.

        :raises KafkaSettingsError: a setting of ``client`` has no translation and stands not in ``flink`` either.
        """
        try:
            return flink_settings(plain_settings(self.client), plain_settings(self.flink))
        except KafkaSettingsError as error:
            raise KafkaSettingsError(self.connection.redact(str(error))) from None

    def resolved(self, environment: Mapping[str, str], folder: Path) -> KafkaConfig:
        """With every secret looked up.

        :param folder: what relative paths of secrets are relative to.
        :raises KafkaSettingsError: one is missing; with the path of its key below ``[kafka]``.
        """

        def resolve(table: str, settings: Settings) -> dict[str, str | Secret]:
            try:
                return resolve_settings(settings, environment, folder)
            except KafkaSettingsError as error:
                raise KafkaSettingsError(f"{table}.{error}") from None

        return replace(self, client=resolve("client", self.client), flink=resolve("flink", self.flink))
