"""The ``[sources]`` tables of rillet.toml: in which format the two raw topics are, and where in a record things lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rillet.schemas import FeatureSpec
from rillet.sources.paths import Path as FieldPath

#: ``rillet``: our own; ``avro``: plain Avro with ``schema``; ``registry``: Avro with a schema registry's framing
Format = Literal["rillet", "json", "avro", "registry"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]
ScoreKind = Literal["probability", "logit"]


@dataclass(frozen=True, slots=True)
class _Source:
    """What both topics have: a format, and a request, a time and an impression in each record."""

    #: ``rillet``: our own records; ``json``; ``avro``: plain Avro with ``schema``; ``registry``: Avro with the framing of a
    #: schema registry
    format: Format = "rillet"
    #: Avro schema file (.avsc) of format avro; relative to the configuration file
    schema: Path | None = None
    #: URL of the schema registry of format registry; without a password
    registry: str = ""
    #: path of the request's id: text or an integer
    request_id: str = ""
    #: path of the event time
    time: str = ""
    #: unit of numbers; iso8601 is text with an offset, such as 2025-11-22T00:06:40Z
    time_unit: TimeUnit = "ms"
    #: path of the impression's id, in the features topic inside an item, if there are items: an integer, or text that is
    #: hashed
    impression_id: str = ""


@dataclass(frozen=True, slots=True)
class FeatureSource(_Source):
    """The features topic: one event per page, or one per impression where ``items`` is left out."""

    #: path of the list of candidates; left out: one event is one impression
    items: str = ""
    #: name of a slot or a dense feature = path; those not named lie under their own name. Context slots are looked for in
    #: the event, item slots and dense features in the item.
    slots: dict[str, str] = field(default_factory=dict)
    #: name of a task = path of the score by which an item was ranked, inside the item; where it is missing or null the item
    #: has none. Quality as served is known of the tasks named
    scores: dict[str, str] = field(default_factory=dict)
    #: what scores are: probabilities from 0 to 1, or logits
    score_kind: ScoreKind = "probability"
    #: path of whether an item was exposed, true or false, inside the item; left out: all items were. An item that was not
    #: gives no example
    exposed: str = ""

    def __post_init__(self) -> None:
        _check(self, required=("request_id", "time", "impression_id"), optional=("items", "exposed"))
        _check_paths("slots", self.slots)
        _check_paths("scores", self.scores)

    @property
    def per_impression(self) -> bool:
        """Whether an event is one impression, and so a request of its own."""
        return self.format != "rillet" and not self.items


@dataclass(frozen=True, slots=True)
class ActionSource(_Source):
    """The actions topic: one event per action."""

    #: path of the action's name
    action: str = ""
    #: what the topic calls an action = what the feature spec calls it; others keep their name
    names: dict[str, str] = field(default_factory=dict)
    #: path of how much of it there was, a number; where it is missing or null there is none
    value: str = ""
    #: path of an id of the action alone, text or an integer, by which one that is sent twice counts once
    action_id: str = ""

    def __post_init__(self) -> None:
        _check(self, required=("request_id", "time", "impression_id", "action"), optional=("value", "action_id"))


@dataclass(frozen=True, slots=True)
class SourcesConfig:
    """How the two raw topics are read."""

    #: where requests and their candidates come from
    features: FeatureSource = field(default_factory=FeatureSource)
    #: where actions come from
    actions: ActionSource = field(default_factory=ActionSource)

    @property
    def converted(self) -> tuple[Literal["features", "actions"], ...]:
        """The topics that are not native."""
        kinds: tuple[Literal["features", "actions"], ...] = ("features", "actions")
        return tuple(kind for kind in kinds if getattr(self, kind).format != "rillet")

    def of_spec(self, spec: FeatureSpec) -> SourcesConfig:
        """Without the slots, dense features and tasks that a spec does not have, where one beside our own is read."""
        slots = {*(slot.name for slot in spec.slots), *spec.dense_names}
        tasks = {task.name for task in spec.tasks}
        features = replace(
            self.features,
            slots={name: path for name, path in self.features.slots.items() if name in slots},
            scores={name: path for name, path in self.features.scores.items() if name in tasks},
        )
        return replace(self, features=features)

    def resolved(self, folder: Path) -> SourcesConfig:
        """With schema files relative to ``folder``."""

        def absolute(path: Path | None) -> Path | None:
            return None if path is None else (folder / path).resolve()

        return SourcesConfig(
            replace(self.features, schema=absolute(self.features.schema)),
            replace(self.actions, schema=absolute(self.actions.schema)),
        )


def _check(source: _Source, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    """:raises ValueError: a key is missing, is no path, or is of another format."""
    if source.format == "rillet":
        for of in fields(source):
            default = of.default if of.default_factory is MISSING else of.default_factory()
            if of.name != "format" and getattr(source, of.name) != default:
                raise ValueError(f"{of.name}: format is 'rillet', whose records say everything; name another format")
        return
    for name in required:
        if not getattr(source, name):
            raise ValueError(f"{name}: is missing; format {source.format!r} needs the path of this field")
    _check_paths("", {name: getattr(source, name) for name in (*required, *optional) if getattr(source, name)})
    for name, belongs_to in (("schema", "avro"), ("registry", "registry")):
        if bool(getattr(source, name)) != (source.format == belongs_to):
            trouble = "is missing" if source.format == belongs_to else f"is of format {belongs_to!r}"
            raise ValueError(f"{name}: {trouble}; format is {source.format!r}")
    if source.registry:
        _check_registry(source.registry)


def _check_registry(url: str) -> None:
    """:raises ValueError: no URL, or one with a password; without the URL, which would stand in a log then."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError("registry: is no URL of http or https") from None
    if "@" in parts.netloc:
        raise ValueError(
            "registry: has a user in front of its host; registries that ask for a password are not supported"
        )
    if not usable or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise ValueError("registry: is no URL of http or https, such as http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError("registry: has a query or fragment; give the address in front of /schemas/ids")


def _check_paths(table: str, paths: Mapping[str, str]) -> None:
    for name, path in paths.items():
        try:
            FieldPath(path)
        except ValueError as error:
            raise ValueError(f"{table}.{name}: {error}" if table else f"{name}: {error}") from None
