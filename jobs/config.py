"""rillet.toml: one file for all services, composed of the packages' own settings.

The packages declare plain dataclasses with ranges; here they are read, checked and resolved once. An
unknown key, a wrong type or a value out of range is refused with its path in the file.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from rillet.connectors.client_settings import flatten
from rillet.connectors.config import KafkaConfig
from rillet.connectors.errors import KafkaSettingsError
from rillet.connectors.limits import GROUP_ROWS, RECORD_MAX_BYTES
from rillet.embeddings.config import TableConfig
from rillet.jobs.errors import ConfigError
from rillet.joiner.config import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.schemas import FeatureSpec, SpecError, SpecRegistry, load_spec
from rillet.schemas.ranges import check_above_zero
from rillet.serving.config import ServingConfig
from rillet.sources.config import SourcesConfig
from rillet.sync.config import PublisherConfig, ReplicaConfig, StoreConfig
from rillet.trainer.config import ModelConfig, TrainerConfig

BOOTSTRAP_VARIABLE = "RILLET_KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Where joiner, trainer and dump answer probes and Prometheus; the server does so on its port in `[serving]`."""

    #: address to listen on
    host: str = "127.0.0.1"
    #: port of the joiner; 0 = off
    join_port: int = 9101
    #: port of the trainer; 0 = off
    train_port: int = 9102
    #: port of the dump; 0 = off
    dump_port: int = 9103

    def __post_init__(self) -> None:
        for name in ("join_port", "train_port", "dump_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name}: {getattr(self, name)} is not in 0..65535")


@dataclass(frozen=True, slots=True)
class DumpConfig:
    """Where example rows go as files, and how soon."""

    #: fsspec URL, or a folder below data_dir
    to: str = "examples"
    #: seconds between commits: after each, what was read until then is in files, new ones every time
    commit_interval_s: float = 300.0
    #: rows that are held before they are written; also the most that a batch stage holds of what it reads
    group_rows: int = GROUP_ROWS

    def __post_init__(self) -> None:
        if not self.to:
            raise ValueError("to: is empty")
        check_above_zero(self, "commit_interval_s", "group_rows")


# "forbid" refuses unknown keys here and in the dataclasses below, which inherit it from this one.
@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class RilletConfig:
    """Paths are relative to the file itself."""

    #: the feature spec, a TOML file: see feature-spec.md
    spec: Path
    #: feature specs, TOML files, whose records are taken beside our own: those before and after a change that is rolled out
    also_accepts: tuple[Path, ...] = ()
    #: working folder of the services: store, checkpoints, logs, pid files
    data_dir: Path = Path("var/rillet")
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)
    flink: FlinkConfig = field(default_factory=FlinkConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    table: TableConfig = field(default_factory=TableConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    publisher: PublisherConfig = field(default_factory=PublisherConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    replica: ReplicaConfig = field(default_factory=ReplicaConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    dump: DumpConfig = field(default_factory=DumpConfig)

    def __post_init__(self) -> None:
        if self.publisher.max_block_bytes > RECORD_MAX_BYTES:
            raise ValueError(
                f"publisher.max_block_bytes: {self.publisher.max_block_bytes} is above {RECORD_MAX_BYTES}, the largest record"
            )

    @property
    def store_url(self) -> str:
        """Root of the object store: [store] url as it stands when it is a URL, else under data_dir."""
        return self.store.url if "://" in self.store.url else str(self.data_dir / self.store.url)

    @property
    def dump_url(self) -> str:
        """Where the dump writes: [dump] to as it stands when it is a URL, else under data_dir."""
        return self.dump.to if "://" in self.dump.to else str(self.data_dir / self.dump.to)

    def checkpoint_dir(self, spec: FeatureSpec) -> Path:
        """Where the trainer keeps the checkpoints of its model on a feature spec: another spec begins another model beside it."""
        return self.data_dir / "checkpoints" / self.model.name / f"{spec.model_hash:#x}"

    def path_in_data_dir(self, path: str) -> Path | None:
        """A setting that names a local file or folder: as it stands when it is absolute, else below data_dir; None for ""."""
        return self.data_dir / path if path else None

    def load_spec(self) -> FeatureSpec:
        """Reads the feature spec.

        :raises SpecError: see :func:`rillet.schemas.load_spec`.
        """
        return load_spec(self.spec)

    def load_specs(self) -> SpecRegistry:
        """Reads the feature spec and those that are accepted beside it.

        :raises SpecError: see :func:`rillet.schemas.load_spec`; or two of them contradict each other.
        """
        try:
            return SpecRegistry(self.load_spec(), [load_spec(path) for path in self.also_accepts])
        except SpecError as error:
            raise SpecError(f"spec, also_accepts: {error}; `rillet spec diff OLD NEW` tells all differences") from error


_ADAPTER = TypeAdapter(RilletConfig)


def load_config(
    path: Path | str, bootstrap_servers: str | None = None, environment: Mapping[str, str] = os.environ
) -> RilletConfig:
    """Reads a configuration file, and the secrets that it refers to.

    :param bootstrap_servers: replaces the file's; without it ``RILLET_KAFKA_BOOTSTRAP_SERVERS`` does, if set.
    :raises ConfigError: unreadable, a key is unknown or wrong, or a secret is missing; the message has the file and
        every wrong key.
    """
    path = Path(path).absolute()
    config = parse_config(read_tables(path), str(path))
    servers = bootstrap_servers or environment.get(BOOTSTRAP_VARIABLE)
    try:
        kafka = config.kafka.resolved(environment, path.parent)
    except KafkaSettingsError as error:
        raise ConfigError(f"{path}: kafka.{error}") from None
    if servers:
        try:
            kafka = replace(kafka, bootstrap_servers=servers)
        except ValueError as error:
            raise ConfigError(f"--bootstrap-servers or {BOOTSTRAP_VARIABLE}: {error}") from None
    return replace(
        config,
        spec=(path.parent / config.spec).resolve(),
        also_accepts=tuple((path.parent / spec).resolve() for spec in config.also_accepts),
        data_dir=(path.parent / config.data_dir).resolve(),
        kafka=kafka,
        sources=config.sources.resolved(path.parent),
    )


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a configuration file, not checked yet.

    :raises ConfigError: unreadable, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name a configuration with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(raw: Mapping[str, Any], source: str = "configuration") -> RilletConfig:
    """Checks the tables of a configuration; relative paths stay relative, secrets references.

    :param source: what to call it in messages.
    :raises ConfigError: with every wrong key.
    """
    try:
        raw = _with_flat_settings(raw)
    except KafkaSettingsError as error:
        raise ConfigError(f"{source}: kafka.{error}") from None
    try:
        # By way of JSON: there, strict checking still takes a list for a tuple and text for a path.
        return _ADAPTER.validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_explain(dict(e)) for e in error.errors())) from error


def _with_flat_settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tables with [kafka.client] and [kafka.flink] as flat settings, whatever way their dots were written."""
    kafka = raw.get("kafka")
    if not isinstance(kafka, dict):
        return raw
    flat = dict(kafka)
    for table in ("client", "flink"):
        if table in kafka:
            if not isinstance(kafka[table], dict):
                raise KafkaSettingsError(f"{table}: is no table of settings")
            try:
                flat[table] = flatten(kafka[table])
            except KafkaSettingsError as error:
                raise KafkaSettingsError(f"{table}.{error}") from None
    return {**raw, "kafka": flat}


def dump_config(config: RilletConfig) -> str:
    """The configuration as TOML text that :func:`load_config` reads back to an equal one.

    Secrets stay references to where they stand.
    """
    lines: list[str] = []
    _dump_table("", _ADAPTER.dump_python(config, mode="json"), lines)
    return "\n".join(lines) + "\n"


def _dump_table(path: str, table: Mapping[str, Any], lines: list[str]) -> None:
    if path:
        lines += ["", f"[{path}]"]
    for key, value in table.items():
        if not isinstance(value, dict) and value is not None:
            # JSON's strings, numbers, booleans and lists of them are TOML's, but for infinity
            lines.append(f"{_toml_key(key)} = {json.dumps(value).replace('Infinity', 'inf')}")
    for key, value in table.items():
        if isinstance(value, dict):
            _dump_table(f"{path}.{_toml_key(key)}" if path else _toml_key(key), value, lines)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _explain(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `path: what is wrong`."""
    where = [str(part) for part in error["loc"]]
    path = ".".join(where)
    if error["type"] == "unexpected_keyword_argument":
        known = _keys_at(where[:-1])
        close = _tables_with(where[-1]) or difflib.get_close_matches(where[-1], known, 1)
        return f"{path}: unknown key; " + (
            f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{path}: is missing"
    if error["type"] == "value_error":
        return f"{path}.{error['ctx']['error']}" if path else str(error["ctx"]["error"])
    message: str = error["msg"]
    return f"{path}: {message[0].lower()}{message[1:]}, found {error['input']!r}"


def _tables_with(key: str) -> list[str]:
    """Paths of a key in the tables that have it: keys are easily put into the wrong one."""
    return [f"{table}.{key}" for table in _keys_at([]) if key in _keys_at([table])]


def _keys_at(path: list[str]) -> list[str]:
    """Keys of the table at ``path``."""
    kind: Any = RilletConfig
    for part in path:
        kind = get_type_hints(kind)[part]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []
