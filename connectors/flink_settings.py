"""Settings of librdkafka in the words of the Java client that Flink's Kafka connector uses.

What has no exact counterpart is refused rather than left out: a job that connects with less security than was asked
for is worse than one that does not start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rillet.connectors.errors import KafkaSettingsError

#: where the connector's jar keeps the Kafka classes
_SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security"
_LOGIN_MODULES = {
    "PLAIN": f"{_SHADED}.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_SHADED}.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_SHADED}.scram.ScramLoginModule",
}
#: the same name and meaning in both clients
_SAME = {
    "client.dns.lookup",
    "client.rack",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.service.name",
    "ssl.key.password",
}
#: about librdkafka's own sockets, threads and prints: nothing that another client would have to do too
_OWN = re.compile(
    r"socket\..*|broker\.(address|version)\..*|debug|log[._].*|statistics\..*|topic\.metadata\..*|client\.id"
)
#: the path of these is taken from the folder of rillet.toml on this machine, and has to exist on Flink's too
_ADVICE = "give the Java client's own setting in [kafka.flink]"


def flink_settings(client: Mapping[str, str], flink: Mapping[str, str]) -> dict[str, str]:
    """Java client settings for a connection.

    :param client: librdkafka's settings, without the address.
    :param flink: Java settings that are taken as they are and go before translated ones; setting
        ``sasl.jaas.config``, ``ssl.truststore.location`` or ``ssl.keystore.location`` there leaves the part of
        ``client`` that it stands for untranslated.
    :raises KafkaSettingsError: a setting has no translation; with its name.
    """
    left = dict(client)
    made: dict[str, str] = {}
    if (protocol := left.pop("security.protocol", None)) is not None:
        made["security.protocol"] = protocol.upper()
    made |= _sasl(left, given="sasl.jaas.config" in flink)
    made |= _truststore(left, given=_names(flink, "ssl.truststore."))
    made |= _keystore(left, given=_names(flink, "ssl.keystore."))
    if (algorithm := left.pop("ssl.endpoint.identification.algorithm", None)) is not None:
        made["ssl.endpoint.identification.algorithm"] = "" if algorithm == "none" else algorithm
    for name, value in left.items():
        if name in _SAME:
            made[name] = value
        elif not _OWN.fullmatch(name) and name not in flink:
            raise KafkaSettingsError(
                f"[kafka.client] {name}: Flink's Kafka client has no setting that is known to mean the same; {_ADVICE}"
            )
    return {**made, **flink}


def _sasl(left: dict[str, str], *, given: bool) -> dict[str, str]:
    spellings = [left.pop(name) for name in ("sasl.mechanism", "sasl.mechanisms") if name in left]
    user, password = left.pop("sasl.username", None), left.pop("sasl.password", None)
    made = {"sasl.mechanism": spellings[0]} if spellings else {}
    if given or (user is None and password is None):
        return made
    # Without a mechanism both clients mean Kerberos, which has no password.
    mechanism = spellings[0] if spellings else "GSSAPI"
    if mechanism not in _LOGIN_MODULES:
        raise KafkaSettingsError(
            f"[kafka.client] sasl.mechanism: a user and password of {mechanism} cannot be translated for Flink, "
            f"only of {', '.join(_LOGIN_MODULES)}; give sasl.jaas.config in [kafka.flink]"
        )
    if user is None or password is None:
        missing = "sasl.username" if user is None else "sasl.password"
        raise KafkaSettingsError(f"[kafka.client] {missing}: is missing")
    login = f"username={_jaas_quoted(user)} password={_jaas_quoted(password)}"
    return made | {"sasl.jaas.config": f"{_LOGIN_MODULES[mechanism]} required {login};"}


def _jaas_quoted(text: str) -> str:
    """A string of a JAAS configuration, read by Java's StreamTokenizer: backslashes and quotes are escaped, line
    breaks cannot stand in it."""
    for raw, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(raw, escaped)
    return f'"{text}"'


def _truststore(left: dict[str, str], *, given: bool) -> dict[str, str]:
    location, pem = left.pop("ssl.ca.location", None), left.pop("ssl.ca.pem", None)
    if given:
        return {}
    if pem is not None:
        return {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": pem}
    # "probe": librdkafka looks where systems keep their certificates; Java trusts its own without a setting.
    if location is None or location == "probe":
        return {}
    if Path(location).is_dir():
        raise KafkaSettingsError(
            f"[kafka.client] ssl.ca.location: {location} is a folder, Flink's Kafka client takes one PEM file"
        )
    return {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(Path(location).absolute())}


def _keystore(left: dict[str, str], *, given: bool) -> dict[str, str]:
    certificate, key = left.pop("ssl.certificate.location", None), left.pop("ssl.key.location", None)
    store, password = left.pop("ssl.keystore.location", None), left.pop("ssl.keystore.password", None)
    inline = [left.pop(name, None) for name in ("ssl.certificate.pem", "ssl.key.pem")]
    if given:
        return {}
    if store is not None:
        made = {"ssl.keystore.type": "PKCS12", "ssl.keystore.location": str(Path(store).absolute())}
        return made if password is None else made | {"ssl.keystore.password": password}
    if certificate is None and key is None and inline == [None, None]:
        return {}
    if certificate is None or certificate != key:
        # Java takes them apart only as text in its settings, and Flink does not hide that one on its pages.
        raise KafkaSettingsError(
            "[kafka.client] ssl.key.location: Flink's Kafka client takes certificate and key (PKCS#8) from one PEM file: "
            "put both into one and name it in ssl.certificate.location and ssl.key.location, or set "
            "ssl.keystore.location in [kafka.flink]"
        )
    return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(Path(certificate).absolute())}


def _names(settings: Mapping[str, str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in settings)
