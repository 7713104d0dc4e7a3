"""The table of rights in docs/operations/kafka-security.md, on a broker that checks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic

from rillet.connectors.config import KafkaConfig, Service
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.dead_letters import DeadLetterProducer, letter_for
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.errors import BrokerRefusedError, TopicError
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.limits import TOPIC_MAX_BYTES
from rillet.connectors.producers import EventProducer
from rillet.connectors.topics import create_topics, topic_ends
from rillet.devstack.broker import Broker, User
from rillet.devstack.process import free_port
from rillet.schemas import ActionEvent, RecordError

pytestmark = pytest.mark.integration

#: service -> topics read, topics written, groups
RIGHTS: dict[Service, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "join": (("features", "actions"), ("examples", "dead_letters"), ()),
    "train": (("examples", "deltas"), ("deltas", "dead_letters"), ("rillet-train", "rillet-deltas")),
    "serve": (("deltas",), ("features",), ("rillet-deltas",)),
    "dump": (("examples",), ("dead_letters",), ("rillet-dump",)),
}
KAFKA = KafkaConfig()
PASSWORD = "pw"  # noqa: S105


@dataclass(frozen=True, slots=True)
class GuardedBroker(Broker):
    """Allows its own user everything, others what they are given."""

    def _properties(self, data: Path) -> str:
        return Broker._properties(self, data) + (
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
            "super.users=User:admin;User:ANONYMOUS\n"
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaConnection]:
    broker = GuardedBroker(tmp_path_factory.mktemp("guarded"), free_port(), User("admin", "secret"))
    broker.start()
    try:
        connection = broker.connection
        create_topics(connection, KAFKA.topic_partitions)
        for service in RIGHTS:
            _allow(connection, service)
        yield connection
    finally:
        broker.stop(kill=True)


def _allow(connection: KafkaConnection, user: Service) -> None:
    admin = connection.admin()
    login = UserScramCredentialUpsertion(
        user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), PASSWORD.encode()
    )
    for done in admin.alter_user_scram_credentials([login]).values():
        done.result(10)
    reads, writes, groups = RIGHTS[user]
    wanted = [(ResourceType.TOPIC, topic, AclOperation.READ) for topic in reads]
    wanted += [(ResourceType.TOPIC, topic, AclOperation.WRITE) for topic in writes]
    wanted += [(ResourceType.GROUP, group, AclOperation.READ) for group in groups]
    literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    rights = [AclBinding(kind, name, literal, f"User:{user}", "*", right, allow) for kind, name, right in wanted]
    for done in admin.create_acls(rights).values():
        done.result(10)


def _as(connection: KafkaConnection, user: str) -> KafkaConnection:
    settings = {**connection.settings, "sasl.username": user, "sasl.password": PASSWORD}
    return KafkaConnection(connection.bootstrap_servers, settings)


@pytest.mark.parametrize("service", RIGHTS)
def test_a_service_starts_with_the_documented_rights(guarded: KafkaConnection, service: Service) -> None:
    assert create_topics(_as(guarded, service), KAFKA.topic_partitions_of(service), timeout_s=10) == []


def test_the_trainer_reads_and_writes_with_its_rights(guarded: KafkaConnection) -> None:
    mine = _as(guarded, "train")
    source = KafkaExampleSource(mine, "examples", {}, until_latest=False)
    source.start()
    assert source.poll(1, 1.0) == []
    source.close()
    with KafkaDeltaLog(mine, "deltas") as log:
        log.append(b"k", b"v")
        log.commit(10)
        assert log.read(0, 1, 10.0)[0].value == b"v"
    letters = DeadLetterProducer(mine, "dead_letters")
    letters.start()
    letters.submit(letter_for(RecordError("r"), "examples", 0, 0, key=None, value=b"v"))
    letters.flush(10)
    letters.close()


def test_the_server_reads_and_writes_with_its_rights(guarded: KafkaConnection) -> None:
    mine = _as(guarded, "serve")
    features = EventProducer(mine, "features")
    features.start()
    features.submit(ActionEvent("r", 1, 1, "watch"))
    features.flush(10)
    features.close()
    with KafkaDeltaLog(mine, "deltas") as log:
        assert log.begin() == 0


def test_a_topic_without_rights_is_refused_by_its_name(guarded: KafkaConnection) -> None:
    mine = _as(guarded, "serve")
    with pytest.raises(BrokerRefusedError, match=r"topic examples on .* may not be seen"):
        create_topics(mine, {"examples": 1}, timeout_s=10)
    with pytest.raises(BrokerRefusedError, match=r"topic examples on .* may not be seen"):
        topic_ends(mine, "examples")
    right = AclBinding(
        *(ResourceType.TOPIC, "examples", ResourcePatternType.LITERAL, "User:serve", "*"),
        *(AclOperation.DESCRIBE, AclPermissionType.ALLOW),
    )
    admin = guarded.admin()
    admin.create_acls([right])[right].result(10)
    assert (
        create_topics(mine, {"examples": 1}, timeout_s=10) == []
    )  # "give it the rights (ACLs) that its service needs"


def test_a_compacted_topic_is_refused_and_a_narrow_one_is_warned_of(
    guarded: KafkaConnection, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"compacted": {"cleanup.policy": "compact"}, "narrow": {"max.message.bytes": "1000000"}}
    admin = guarded.admin()
    for name, config in settings.items():
        admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(10)
    with pytest.raises(TopicError, match=r"topic compacted on .* is compacted \(cleanup.policy=compact\)"):
        create_topics(guarded, {"compacted": 1})
    create_topics(guarded, {"narrow": 1})
    assert "topic narrow on" in caplog.text
    assert "up to 1000000 bytes only" in caplog.text
    assert "set max.message.bytes=" in caplog.text
    caplog.clear()
    advised = {"compacted": ("cleanup.policy", "delete"), "narrow": ("max.message.bytes", str(TOPIC_MAX_BYTES))}
    for name, (setting, value) in advised.items():
        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)
    assert create_topics(guarded, {"compacted": 1, "narrow": 1}) == []
    assert caplog.text == ""
