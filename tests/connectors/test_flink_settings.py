"""The same connection in the words of Flink's Kafka client, or none at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rillet.connectors.errors import KafkaSettingsError
from rillet.connectors.flink_settings import flink_settings
from rillet.jobs.config import load_config

SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security"


def test_scram_over_tls_is_translated(tmp_path: Path) -> None:
    client = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "loop",
        "sasl.password": "secret",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert flink_settings(client, {}) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.jaas.config": f'{SHADED}.scram.ScramLoginModule required username="loop" password="secret";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tmp_path / "ca.pem"),
        "ssl.endpoint.identification.algorithm": "",
    }


def test_both_spellings_of_the_mechanism_are_known() -> None:
    client = {"sasl.mechanisms": "PLAIN", "sasl.username": "u", "sasl.password": "p"}
    made = flink_settings(client, {})
    assert made["sasl.mechanism"] == "PLAIN"
    assert made["sasl.jaas.config"].startswith(f"{SHADED}.plain.PlainLoginModule required ")


def test_quotes_backslashes_and_line_breaks_of_a_password_are_escaped() -> None:
    client = {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": 'a"b\\c\nd;'}
    assert flink_settings(client, {})["sasl.jaas.config"].endswith(r'username="u" password="a\"b\\c\nd;";')


def test_certificate_and_key_in_one_pem_file_are_the_keystore(tmp_path: Path) -> None:
    pem = str(tmp_path / "client.pem")
    client = {"ssl.certificate.location": pem, "ssl.key.location": pem}
    assert flink_settings(client, {}) == {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": pem,
    }


def test_a_pkcs12_keystore_keeps_its_password() -> None:
    client = {"ssl.keystore.location": "/k.p12", "ssl.keystore.password": "p"}
    made = flink_settings(client, {})
    assert made == {
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": "/k.p12",
        "ssl.keystore.password": "p",
    }


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ({"ssl.certificate.location": "/a.pem", "ssl.key.location": "/b.pem"}, "ssl.key.location"),
        ({"ssl.certificate.pem": "PEM", "ssl.key.pem": "PEM"}, "ssl.key.location"),
        (
            {"ssl.certificate.location": "/a.pem", "ssl.key.location": "/a.pem", "ssl.key.password": "hidden-value"},
            "ssl.key.password",
        ),
        ({"ssl.ca.location": "/"}, "ssl.ca.location"),
        ({"enable.ssl.certificate.verification": "false"}, "enable.ssl.certificate.verification"),
        ({"ssl.cipher.suites": "x"}, "ssl.cipher.suites"),
        ({"sasl.mechanism": "GSSAPI", "sasl.username": "u", "sasl.password": "hidden-value"}, "sasl.mechanism"),
        ({"sasl.mechanism": "PLAIN", "sasl.password": "hidden-value"}, "sasl.username"),
        ({"sasl.oauthbearer.method": "oidc"}, "sasl.oauthbearer.method"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_its_name(client: dict[str, str], name: str) -> None:
    with pytest.raises(KafkaSettingsError, match=rf"\[kafka\.client\] {name}: ") as caught:
        flink_settings(client, {})
    assert "hidden-value" not in str(caught.value)


def test_what_is_given_for_flink_goes_before_the_translation() -> None:
    client = {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.ca.location": "/",
        "ssl.certificate.location": "/a.pem",
        "ssl.key.location": "/b.pem",
        "ssl.cipher.suites": "ECDHE-RSA-AES128-GCM-SHA256",
    }
    flink = {
        "sasl.jaas.config": "jaas",
        "ssl.truststore.location": "/t.jks",
        "ssl.keystore.location": "/k.jks",
        "ssl.cipher.suites": "TLS_AES_128_GCM_SHA256",
    }
    assert flink_settings(client, flink) == {"sasl.mechanism": "OAUTHBEARER", **flink}


def test_settings_of_librdkafkas_own_sockets_are_left_to_it() -> None:
    assert flink_settings({"socket.keepalive.enable": "true", "debug": "security"}, {}) == {}
    passed = {"client.id": "loop", "socket.connection.setup.timeout.ms": "5000"}
    assert flink_settings(passed, {}) == passed


@pytest.mark.parametrize(
    "client",
    [
        {
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": "c",
            "sasl.oauthbearer.client.secret": "s",
        },
        {"sasl.mechanism": "GSSAPI", "sasl.kerberos.keytab": "k", "sasl.kerberos.principal": "p"},
    ],
)
def test_a_login_of_flinks_own_releases_all_of_librdkafkas(client: dict[str, str]) -> None:
    flink = {"sasl.jaas.config": "jaas", "sasl.login.callback.handler.class": "x"}
    assert flink_settings(client, flink) == {"sasl.mechanism": client["sasl.mechanism"], **flink}


@pytest.mark.parametrize(
    ("client", "detail"),
    [
        ({"ssl.ca.location": "/ca.pem"}, "ssl.truststore.type"),
        ({"ssl.ca.pem": "PEM"}, "ssl.truststore.password"),
        ({"ssl.certificate.location": "/c.pem", "ssl.key.location": "/c.pem"}, "ssl.keystore.type"),
        ({"ssl.keystore.location": "/c.p12"}, "ssl.keystore.password"),
    ],
)
def test_a_detail_for_flink_never_drops_the_authority_or_the_clients_certificate(
    client: dict[str, str], detail: str
) -> None:
    with pytest.raises(KafkaSettingsError, match=rf"\[kafka\.flink\] {detail}: changes what ssl\."):
        flink_settings(client, {detail: "x"})
    assert flink_settings({}, {detail: "x"}) == {detail: "x"}


def test_what_has_no_translation_is_given_to_flink_as_the_error_says(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").touch()

    def settings(flink: str) -> dict[str, str]:
        path = tmp_path / "rillet.toml"
        path.write_text(
            'spec = "spec.toml"\n[kafka.client]\nsecurity.protocol = "ssl"\nssl.ca.location = "ca.pem"\n'
            f'"enable.ssl.certificate.verification" = false\n[kafka.flink]\n{flink}'
        )
        return load_config(path).kafka.flink_settings

    with pytest.raises(KafkaSettingsError) as refused:
        settings("")
    advised = re.search(r'if that has another name, (".*" = "") beside it', str(refused.value))
    assert advised is not None
    found = settings(f'"ssl.endpoint.identification.algorithm" = ""\n{advised[1]}\n')
    assert found["ssl.endpoint.identification.algorithm"] == ""
    assert "enable.ssl.certificate.verification" not in found
