"""[kafka.client] and [kafka.flink]: both spellings of dots, references to secrets, what is not the user's to set."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from rillet.connectors.client_settings import Secret, check_settings, flatten, is_secret, resolve_settings
from rillet.connectors.errors import KafkaSettingsError


def test_dots_mean_the_same_with_and_without_quotes() -> None:
    quoted = '"security.protocol" = "SSL"\n"sasl.password" = { env = "P" }\n"socket.keepalive.enable" = true\n'
    assert flatten(tomllib.loads(quoted)) == flatten(tomllib.loads(quoted.replace('"s', "s").replace('" =', " =")))
    assert flatten(tomllib.loads(quoted)) == {
        "security.protocol": "SSL",
        "sasl.password": {"env": "P"},
        "socket.keepalive.enable": "true",
    }


def test_a_setting_in_both_spellings_is_refused() -> None:
    with pytest.raises(KafkaSettingsError, match=r"security\.protocol: is given twice"):
        flatten(tomllib.loads('"security.protocol" = "SSL"\nsecurity.protocol = "PLAINTEXT"'))


@pytest.mark.parametrize("value", [["hidden-value"], {"env": 3}, {"env": "hidden-value", "file": "b"}])
def test_a_value_of_another_kind_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(KafkaSettingsError, match=r"^sasl\.password: ") as caught:
        flatten({"sasl.password": value})
    assert "hidden-value" not in str(caught.value)


def test_secrets_are_read_from_environment_and_files_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret, of a file \n")
    settings = {
        "sasl.username": Secret(env="USER_OF_KAFKA"),
        "sasl.password": Secret(file="password"),
        "ssl.ca.location": "certificates/ca.pem",
        "security.protocol": "SASL_SSL",
    }
    found = resolve_settings(settings, {"USER_OF_KAFKA": "loop, of the environment"}, tmp_path)
    user, password = found["sasl.username"], found["sasl.password"]
    assert isinstance(user, Secret)
    assert isinstance(password, Secret)
    assert (user.value, password.value) == ("loop, of the environment", "s3cret, of a file ")
    assert found["ssl.ca.location"] == str(tmp_path / "certificates" / "ca.pem")
    assert found["security.protocol"] == "SASL_SSL"
    assert ", of" not in f"{found!r} {user} {asdict(password)}"
    assert password == settings["sasl.password"]


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (Secret(env="NOT_SET"), "sasl.password: environment variable NOT_SET is not set"),
        (Secret(env="EMPTY"), "sasl.password: environment variable EMPTY is empty"),
        (Secret(file="gone"), "sasl.password: file .*gone: No such file"),
    ],
)
def test_a_missing_secret_is_named_with_its_setting(tmp_path: Path, secret: Secret, message: str) -> None:
    with pytest.raises(KafkaSettingsError, match=message):
        resolve_settings({"sasl.password": secret}, {"EMPTY": ""}, tmp_path)


def test_a_line_break_at_the_end_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pw\r\n")
    for secret in (Secret(env="P"), Secret(file="password")):
        assert secret.resolved({"P": "pw\n"}, tmp_path).value == "pw"


@pytest.mark.parametrize(("value", "words"), [(" pw", "begins with white space"), ("\tpw", "begins"), ("p\0w", "NUL")])
def test_a_value_that_the_client_would_alter_is_refused_without_being_shown(
    tmp_path: Path, value: str, words: str
) -> None:
    with pytest.raises(KafkaSettingsError, match=f"^sasl.password: environment variable P .*{words}") as caught:
        resolve_settings({"sasl.password": Secret(env="P")}, {"P": value}, tmp_path)
    assert "pw" not in str(caught.value)
    with pytest.raises(KafkaSettingsError, match=f"^sasl.username: .*{words}"):
        check_settings({"sasl.username": value})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bootstrap.servers", r"set \[kafka\] bootstrap_servers"),
        ("metadata.broker.list", r"set \[kafka\] bootstrap_servers"),
        ("enable.idempotence", "delivery guarantees"),
        ("acks", "delivery guarantees"),
        ("transactional.id", "delivery guarantees"),
        ("isolation.level", "where its readers begin"),
        ("group.id", "where its readers begin"),
        ("enable.auto.commit", "where its readers begin"),
        ("auto.offset.reset", "where its readers begin"),
        ("message.max.bytes", "bounds records"),
        ("queue.buffering.max.messages", "bounds records"),
        ("max.request.size", "bounds records"),
        ("error_cb", "no code"),
        ("on_delivery", "no code"),
        ("ssl.engine.location", "no code"),
        ("sasl.kerberos.kinit.cmd", "no code"),
        ("delivery.report.only.error", "delivery guarantees"),
        ("test.mock.num.brokers", "for tests"),
        ("allow.auto.create.topics", "makes its topics itself"),
    ],
)
def test_what_rillet_has_to_own_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(KafkaSettingsError, match=rf"^{name}: cannot be set: .*{reason}"):
        check_settings({name: "hidden-value"})


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "sasl.jaas.config",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.key",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
    ],
)
def test_a_secret_in_the_file_is_refused_without_being_shown(name: str) -> None:
    assert is_secret(name)
    with pytest.raises(KafkaSettingsError, match=rf"^{name}: a secret does not stand in the configuration") as caught:
        check_settings({name: "hidden-value"})
    assert "hidden-value" not in str(caught.value)
    check_settings({name: Secret(env="P")})


def test_settings_of_security_and_of_sockets_are_the_users_own() -> None:
    names = ["security.protocol", "sasl.mechanism", "sasl.username", "ssl.ca.location", "ssl.key.location"]
    names += ["ssl.certificate.location", "sasl.oauthbearer.token.endpoint.url", "socket.keepalive.enable", "client.id"]
    check_settings(dict.fromkeys(names, "x"))
    assert not [name for name in names if is_secret(name)]
