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
    "client.id",
    "client.rack",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.service.name",
    "socket.connection.setup.timeout.ms",
}
#: what says who the client is
_IDENTITY = (
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.keystore.location",
)
#: about librdkafka's own sockets, threads and prints: nothing that another client would have to do too
_OWN = re.compile(r"socket\..*|broker\.(address|version)\..*|debug|log[._].*|statistics\..*|topic\.metadata\..*")
#: the path of these is taken from the folder of rillet.toml on this machine, and has to exist on Flink's too
_ADVICE = "give the Java client's own setting in [kafka.flink]"


def flink_settings(client: Mapping[str, str], flink: Mapping[str, str]) -> dict[str, str]:
    """Java client settings for a connection.

    :param client: librdkafka's settings, without the address.
    :param flink: Java settings that are taken as they are and go before translated ones. Each of
        ``sasl.jaas.config``, ``ssl.truststore.location`` (or ``.certificates``) and ``ssl.keystore.location`` (or
        ``.certificate.chain``) there stands for a whole part of ``client``, which is then left untranslated.
    :raises KafkaSettingsError: a setting has no translation, or ``flink`` changes a part that it does not replace;
        with its name.
    """
    left = dict(client)
    made: dict[str, str] = {}
    trust = _replaced(client, flink, "ssl.truststore.", ("location", "certificates"), ("ssl.ca.location", "ssl.ca.pem"))
    identity = _replaced(client, flink, "ssl.keystore.", ("location", "certificate.chain"), _IDENTITY)
    if (protocol := left.pop("security.protocol", None)) is not None:
        made["security.protocol"] = protocol.upper()
    made |= _sasl(left, given="sasl.jaas.config" in flink)
    made |= _truststore(left, given=trust)
    made |= _keystore(left, given=identity)
    if (algorithm := left.pop("ssl.endpoint.identification.algorithm", None)) is not None:
        made["ssl.endpoint.identification.algorithm"] = "" if algorithm == "none" else algorithm
    left_out = set()
    for name, value in left.items():
        if name in _SAME:
            made[name] = value
        elif not _OWN.fullmatch(name) and name not in flink:
            raise KafkaSettingsError(
                f"[kafka.client] {name}: Flink's Kafka client has no setting that is known to mean the same; {_ADVICE} where it"
                f' has one, and if that has another name, "{name}" = "" beside it'
            )
        elif not flink.get(name, value):
            left_out.add(name)
    return {**made, **{name: value for name, value in flink.items() if name not in left_out}}


def _sasl(left: dict[str, str], *, given: bool) -> dict[str, str]:
    """:param given: Java's whole login is in [kafka.flink]: every ``sasl.*`` but the mechanism is released."""
    spellings = [left.pop(name) for name in ("sasl.mechanism", "sasl.mechanisms") if name in left]
    user, password = left.pop("sasl.username", None), left.pop("sasl.password", None)
    made = {"sasl.mechanism": spellings[0]} if spellings else {}
    if given:
        for name in [name for name in left if name.startswith("sasl.") and name not in _SAME]:
            del left[name]
        return made
    if user is None and password is None:
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
    key_password = left.pop("ssl.key.password", None)
    if given:
        return {}
    if store is not None:
        made = {"ssl.keystore.type": "PKCS12", "ssl.keystore.location": str(Path(store).absolute())}
        made |= {} if password is None else {"ssl.keystore.password": password}
        return made if key_password is None else made | {"ssl.key.password": key_password}
    if certificate is None and key is None and inline == [None, None]:
        return {}
    if certificate is None or certificate != key:
        # Java takes them apart only as text in its settings, and Flink does not hide that one on its pages.
        raise KafkaSettingsError(
            "[kafka.client] ssl.key.location: Flink's Kafka client takes certificate and key (PKCS#8) from one PEM file: "
            "put both into one and name it in ssl.certificate.location and ssl.key.location, or set "
            "ssl.keystore.location in [kafka.flink]"
        )
    if key_password is not None:
        raise KafkaSettingsError(
            "[kafka.client] ssl.key.password: Flink's Kafka client reads keys in PEM files only where they are not "
            "encrypted: put certificate and key into a PKCS#12 file and give ssl.keystore.location and "
            "ssl.keystore.password in its place"
        )
    return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(Path(certificate).absolute())}


def _replaced(
    client: Mapping[str, str],
    flink: Mapping[str, str],
    prefix: str,
    whole: tuple[str, ...],
    translated: tuple[str, ...],
) -> bool:
    """Whether ``flink`` has a store of its own in place of what ``client`` says.

    :raises KafkaSettingsError: it has only details of one, while ``client`` has a part that they would drop or change.
    """
    if any(prefix + name in flink for name in whole):
        return True
    details = sorted(name for name in flink if name.startswith(prefix))
    lost = sorted(name for name in translated if name in client)
    if details and lost:
        raise KafkaSettingsError(
            f"[kafka.flink] {details[0]}: changes what {lost[0]} of [kafka.client] is translated to: give "
            f"{prefix}{whole[0]} too, in its place, or leave it out"
        )
    return False
