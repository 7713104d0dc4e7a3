"""Settings of the Kafka client as they stand in ``[kafka.client]`` and ``[kafka.flink]``: read, checked, resolved.

Names are librdkafka's (``[kafka.client]``) or the Java client's (``[kafka.flink]``). Secrets stand elsewhere: where
a value is ``{ env = "NAME" }`` or ``{ file = "PATH" }``, only that reference is part of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rillet.connectors.errors import KafkaSettingsError

#: settings whose value is a secret in itself
_SECRET = re.compile(
    r"password|secret|jaas|oauthbearer\.config|oauthbearer\.assertion\.private\.key\.(pem|passphrase)"
    r"|^ssl\.key\.pem$|^ssl_key$|keystore\.key$"
)

#: settings that name a file; librdkafka's ``probe`` is none
_FILE = re.compile(r"ssl\.(ca|certificate|key|keystore|truststore|crl)\.location")

_DELIVERY = "rillet sets what its delivery guarantees stand on"
_READING = "rillet decides where its readers begin and what they see, and keeps their positions itself"
_SIZES = "rillet bounds records, queues and fetches itself (rillet.connectors.limits)"
_OWNED = (
    (r"bootstrap\.servers|metadata\.broker\.list", "set [kafka] bootstrap_servers"),
    (
        r"enable\.idempotence|(request\.required\.)?acks|transaction.*|(message\.send\.max\.)?retries"
        r"|message\.timeout\.ms|delivery\.timeout\.ms|max\.in\.flight.*|enable\.gapless\.guarantee|partitioner"
        r"|delivery\.report\.only\.error",
        _DELIVERY,
    ),
    (
        r"isolation\.level|group\..*|enable\.auto\..*|auto\..*|enable\.partition\.eof|check\.crcs|partition\.assignment.*",
        _READING,
    ),
    (
        r"(message|fetch|receive|copy)\..*bytes|max\.request\.size|(queue|queued)\..*|batch\..*|max\.(poll|partition)\..*"
        r"|buffer\.memory|linger\.ms|compression\..*",
        _SIZES,
    ),
    (r"allow\.auto\.create\.topics", "rillet makes its topics itself, with the settings that they need"),
    (
        r".*_cb|on_.*|logger|(key|value)\.(de)?serializer.*|interceptor.*|plugin\..*|ssl\.engine\..*"
        r"|sasl\.kerberos\.kinit\.cmd",
        "a configuration file holds no code",
    ),
    (r"test\..*", "it is for tests of the client, which would talk to no broker"),
)


@dataclass(frozen=True)
class Secret:
    """Where a value stands that is not for the configuration file. Shows that place, never the value.

    Resolved, it carries the value outside its fields, so that neither ``repr`` nor a dump of the fields has it.

    :param env: name of an environment variable.
    :param file: path of a file.

    Line breaks at the end are not part of the value.
    """

    env: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise KafkaSettingsError('needs exactly one of { env = "NAME" } and { file = "PATH" }')

    def resolved(self, environment: Mapping[str, str], folder: Path) -> Secret:
        """The same reference, with its value.

        :param folder: what a relative path of ``file`` is relative to.
        :raises KafkaSettingsError: there is none, or it is empty; the message does not name the setting.
        """
        if self.env is not None:
            where, text = f"environment variable {self.env}", environment.get(self.env)
            if text is None:
                raise KafkaSettingsError(f"{where} is not set")
        else:
            path = folder / str(self.file)
            where = f"file {path}"
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
                raise KafkaSettingsError(f"{where}: {reason}") from None
        value = text.rstrip("\r\n")
        if not value:
            raise KafkaSettingsError(f"{where} is empty")
        if reason := _altered(value):
            raise KafkaSettingsError(f"{where} {reason}")
        made = Secret(self.env, self.file)
        object.__setattr__(made, "_value", value)
        return made

    @property
    def value(self) -> str:
        """The secret.

        :raises KafkaSettingsError: it was not resolved.
        """
        value: str | None = self.__dict__.get("_value")
        if value is None:
            raise KafkaSettingsError(f"{self} was not resolved: load the configuration with load_config")
        return value


#: names of settings to their values
Settings = Mapping[str, str | Secret]


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name must not be shown."""
    return _SECRET.search(name) is not None


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A TOML table as flat settings, values as text.

    TOML takes ``security.protocol = "SSL"`` for nested tables, ``"security.protocol" = "SSL"`` for one key: both mean
    the setting ``security.protocol``. A table of ``env`` or ``file`` is a reference to a secret.

    :returns: text, or the table of a reference.
    :raises KafkaSettingsError: a setting is given in both spellings, or has a value of another kind (which is not
        shown: it may be a secret).
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key
        nested = isinstance(value, dict) and not (value and value.keys() <= {"env", "file"})
        for inner, item in (flatten(value, f"{name}.") if nested else {name: _text(name, value)}).items():
            if inner in flat:
                raise KafkaSettingsError(f"{inner}: is given twice, with and without quotes")
            flat[inner] = item
    return flat


def check_settings(settings: Settings) -> None:
    """Refuses settings that rillet has to own, and secrets that stand in the file.

    :raises KafkaSettingsError: with the name of the setting and the reason; the value is not shown.
    """
    for name, value in settings.items():
        for pattern, reason in _OWNED:
            if re.fullmatch(pattern, name):
                raise KafkaSettingsError(f"{name}: cannot be set: {reason}")
        if isinstance(value, str) and (reason := _altered(value)):
            raise KafkaSettingsError(f"{name}: {reason}")
        if is_secret(name) and not isinstance(value, Secret):
            raise KafkaSettingsError(
                f"{name}: a secret does not stand in the configuration: "
                'write { env = "NAME" } or { file = "PATH" } for where it does'
            )


def resolve_settings(settings: Settings, environment: Mapping[str, str], folder: Path) -> dict[str, str | Secret]:
    """The settings with every secret looked up, and paths of certificates and keys made absolute.

    :param folder: what relative paths are relative to.
    :raises KafkaSettingsError: one is missing; with the name of the setting.
    """
    found: dict[str, str | Secret] = {}
    for name, value in settings.items():
        try:
            found[name] = value.resolved(environment, folder) if isinstance(value, Secret) else value
        except KafkaSettingsError as error:
            raise KafkaSettingsError(f"{name}: {error}") from None
        if isinstance(value, str) and _FILE.fullmatch(name) and value != "probe":
            found[name] = str(folder / value)
    return found


def plain_settings(settings: Settings) -> dict[str, str]:
    """Names and values as a client takes them, secrets included.

    :raises KafkaSettingsError: a secret was not resolved.
    """
    return {name: value.value if isinstance(value, Secret) else value for name, value in settings.items()}


def _altered(value: str) -> str:
    """Why librdkafka would use something else than this value, empty where it would not."""
    if value[:1].isspace():
        return "begins with white space, which the Kafka client drops"
    if "\0" in value:
        return "holds a NUL character, where the Kafka client cuts it off"
    return ""


def _text(name: str, value: Any) -> str | dict[str, str]:
    """Numbers and booleans as librdkafka and Java spell them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), str):
        return value
    raise KafkaSettingsError(
        f'{name}: is no text, number or boolean, and neither {{ env = "NAME" }} nor {{ file = "PATH" }}'
    )
