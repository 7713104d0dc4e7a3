"""The connection as a value: it shows no secret, and tells a refusal from a broker that is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from rillet.connectors.client_settings import Secret
from rillet.connectors.config import KafkaConfig
from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError, KafkaSettingsError

SECURED = KafkaConnection("kafka:9093", {"security.protocol": "SASL_SSL", "sasl.password": "hidden-value"})


def test_an_address_is_a_plaintext_connection() -> None:
    assert KafkaConnection.of("kafka:9092") == KafkaConnection("kafka:9092")
    assert KafkaConnection.of(SECURED) is SECURED
    assert KafkaConnection.of("kafka:9092").plaintext
    assert not SECURED.plaintext


def test_no_value_of_a_setting_is_shown() -> None:
    assert repr(SECURED) == "KafkaConnection('kafka:9093', settings=['sasl.password', 'security.protocol'])"
    assert str(SECURED) == "kafka:9093"


def test_every_value_that_came_by_reference_is_kept_out_of_messages(tmp_path: Path) -> None:
    environment = {"U": "jane", "P": "jane-password", "M": "no-mechanism"}
    settings: dict[str, str | Secret] = {"sasl.username": Secret(env="U"), "sasl.password": Secret(env="P")}
    settings["sasl.mechanism"] = Secret(env="M")
    config = KafkaConfig(client=settings).resolved(environment, tmp_path)
    assert config.connection.redact("jane, jane-password") == "***, ***"
    mistaken = KafkaConfig(client={"security.protocol": Secret(env="M")}).resolved(environment, tmp_path)
    with pytest.raises(KafkaSettingsError) as caught:
        mistaken.connection.producer({})
    assert "no-mechanism" not in str(caught.value)
    with pytest.raises(KafkaSettingsError, match=r"sasl\.mechanism: a user and password of \*\*\*") as caught:
        _ = config.flink_settings
    assert "no-mechanism" not in str(caught.value)


def test_a_setting_that_the_client_does_not_know_is_named() -> None:
    for make in ("admin", "producer", "consumer"):
        connection = KafkaConnection("127.0.0.1:1", {"sasl.pasword": "hidden-value"})
        with pytest.raises(KafkaSettingsError, match=r"^\[kafka\.client\] .*sasl\.pasword") as caught:
            getattr(connection, make)(*([] if make == "admin" else [{"group.id": "g"} if make == "consumer" else {}]))
        assert "hidden-value" not in str(caught.value)


def error(code: int, text: str = "why") -> KafkaError:
    return KafkaError(code, text)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError._AUTHENTICATION, BrokerRefusedError, "did not let us in"),
        (KafkaError._SSL, BrokerRefusedError, "did not let us in"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, BrokerRefusedError, "does not allow this"),
        (KafkaError._TRANSPORT, BrokerUnavailableError, "no Kafka broker answers"),
        (KafkaError._TIMED_OUT, BrokerUnavailableError, "one that runs there is slow or overloaded"),
    ],
)
def test_errors_name_the_address_and_the_table_of_the_configuration(
    code: int, kind: type[Exception], words: str
) -> None:
    explained = SECURED.explain(KafkaException(error(code, "two\nlines, hidden-value")))
    assert type(explained) is kind
    text = str(explained)
    assert words in text
    assert "kafka:9093" in text
    assert "[kafka.client]" in text
    assert "\n" not in text
    assert "hidden-value" not in text


def test_a_call_that_timed_out_of_a_refused_login_is_a_refusal() -> None:
    errors = BrokerErrors()
    errors(error(KafkaError._AUTHENTICATION, "invalid credentials"))
    errors(error(KafkaError._ALL_BROKERS_DOWN))
    explained = SECURED.explain(error(KafkaError._TIMED_OUT), errors)
    assert isinstance(explained, BrokerRefusedError)
    assert "invalid credentials" in str(explained)
    errors.clear()
    assert isinstance(SECURED.explain(error(KafkaError._TIMED_OUT), errors), BrokerUnavailableError)
