"""What one run of a backtest is made of, and grids of it: configuration, feature spec and delays, with what was varied."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from rillet.backtest.delays import Delays, parse_interval, show_interval
from rillet.backtest.specs import learned_spec, vary_spec
from rillet.jobs.config import RilletConfig, parse_config, read_tables
from rillet.jobs.errors import ConfigError
from rillet.schemas import FeatureSpec

#: between the seeds of two runs, so that those of a grid over seeds do not meet them
_SEED_STEP = 1_000_003
DELAY_KEYS = ("commit", "publish", "dense", "apply")
#: what may be varied of a configuration: tables, with the keys that a backtest uses; None for all
_CONFIG_KEYS: dict[str, tuple[str, ...] | None] = {
    "model": None,
    "table": None,
    "trainer": None,
    "joiner": None,
    "flink": ("checkpoint_interval_ms", "lateness_ms"),
    "publisher": ("sparse_interval_s", "dense_interval_s"),
}
#: name of the run where nothing has several values
ONLY = "model"
_UNUSED_TABLES = ("spec", "data_dir", "kafka", "store", "replica", "serving", "health", "dump")


@dataclass(frozen=True, slots=True)
class Setup:
    """One run: what learns, from which labels, and how late.

    The spec is the recording's, or differs from it in crosses, histories and its tasks' windows, rates and label modes alone.
    """

    config: RilletConfig
    spec: FeatureSpec
    delays: Delays
    #: what distinguishes it from the others of a grid: key and value as text
    settings: Mapping[str, str] = field(default_factory=dict)

    def reseeded(self, run: int) -> Setup:
        """The same with other initial weights and rows, and another sample of negatives; run 0 is this one."""
        model, table = self.config.model, self.config.table
        step = run * _SEED_STEP
        return replace(
            self,
            config=replace(
                self.config,
                model=replace(model, seed=model.seed + step),
                table=replace(table, seed=table.seed + step),
            ),
            spec=replace(self.spec, sampling_seed=self.spec.sampling_seed + step),
        )

    @property
    def training(self) -> tuple[object, ...]:
        """Everything that decides what is learned; when it is published and applied does not."""
        config = self.config
        of_config = (config.model, config.table, config.trainer, config.joiner, config.flink.lateness_ms)
        return (*of_config, self.spec, self.delays.commit_ms)

    def to_json(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        config = self.config
        return {
            "varied": dict(self.settings),
            "delays_ms": {key.removesuffix("_ms"): value for key, value in asdict(self.delays).items()},
            "tasks": {task.name: asdict(task) for task in self.spec.tasks},
            "sampling_seed": self.spec.sampling_seed,
            "crosses": [asdict(cross) for cross in self.spec.crosses],
            **{name: asdict(getattr(config, name)) for name in ("model", "table", "trainer", "joiner")},
        }

    def describe(self) -> str:
        """The delays in words."""
        return ", ".join(f"{key} {show_interval(getattr(self.delays, f'{key}_ms'))}" for key in DELAY_KEYS)


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of a grid: its name is the settings that make it."""

    name: str
    #: key, value, and the value as it was written
    settings: tuple[tuple[str, Any, str], ...] = ()


def grid(
    spec: FeatureSpec,
    config: Path | Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    *,
    delays: Mapping[str, int] | None = None,
    speed: float = 1.0,
) -> dict[str, Setup]:
    """The runs of a grid by name, all checked; one named ``model`` where nothing has several values.

    :param spec: of the recording.
    :param config: file, or tables of a configuration; None takes every default. The feature spec that it names is what
        is learned from, see :func:`learned_spec`.
    :param options: ``KEY=V1,V2``, see :func:`parse_grid`. Keys are those of the configuration, ``spec.tasks.TASK.KEY``,
        ``spec.context.HISTORY.KEY``, ``spec.dense.NAME.transform``, ``spec.crosses``, ``spec.sampling_seed`` and
        ``delays.commit``, ``.publish``, ``.dense``, ``.apply``.
    :param delays: of all runs, ms by the same four names; what is missing is the configuration's.
    :param speed: multiplies the configuration's intervals, see :meth:`Delays.of`.
    :raises ConfigError: with the variant and the key that is wrong.
    """
    tables = read_tables(config) if isinstance(config, Path) else dict(config or {})
    spec = learned_spec(spec, config)
    variants = parse_grid(options)
    for key in delays or {}:
        if any(path == f"delays.{key}" for path, _, _ in variants[0].settings):
            raise ConfigError(f"--set delays.{key}: --{key} is given as well; say it once")
    return {variant.name: _resolve(variant, tables, spec, dict(delays or {}), speed) for variant in variants}


def parse_grid(options: Sequence[str]) -> list[Variant]:
    """The variants of ``KEY=V1,V2`` options: every combination of their values.

    Values are TOML; what is none is text. A list is written in brackets, its commas do not separate.

    :raises ConfigError: an option without ``=``, a key or a value twice.

    >>> [variant.name for variant in parse_grid(["model.dim=8,16", "model.kind=deepfm"])]
    ['model.dim=8', 'model.dim=16']
    >>> parse_grid(["model.hidden=[64,32],[32]"])[0].settings
    (('model.hidden', [64, 32], '[64,32]'),)
    """
    axes: dict[str, list[str]] = {}
    for option in options:
        key, equals, values = (part.strip() for part in option.partition("="))
        if not equals or not key or not values:
            raise ConfigError(f"--set {option}: expected KEY=VALUE or KEY=V1,V2, such as model.dim=8,16")
        if key in axes:
            raise ConfigError(f"--set {key}: stands twice; give all its values in one")
        axes[key] = [text.strip() for text in _split(values)]
        if "" in axes[key]:
            raise ConfigError(f"--set {option}: an empty value between two commas, or at an end")
        if len(set(axes[key])) < len(axes[key]):
            raise ConfigError(f"--set {option}: a value stands twice")
    several = [key for key, values in axes.items() if len(values) > 1]
    return [
        Variant(
            ", ".join(f"{key}={text}" for key, text in zip(axes, point, strict=True) if key in several) or ONLY,
            tuple((key, _value(text), text) for key, text in zip(axes, point, strict=True)),
        )
        for point in product(*axes.values())
    ]


def _resolve(
    variant: Variant, raw: Mapping[str, Any], spec: FeatureSpec, delays: dict[str, int], speed: float
) -> Setup:
    tables = deepcopy(dict(raw))
    tables["spec"] = "recording.json"  # the recording's own
    of_spec: dict[str, Any] = {}
    try:
        for path, value, _ in variant.settings:
            head, _, rest = path.partition(".")
            if head == "spec":
                of_spec[rest] = value
            elif head == "delays":
                if rest not in DELAY_KEYS:
                    raise ConfigError(
                        f"{path}: unknown key; known are {', '.join(f'delays.{key}' for key in DELAY_KEYS)}"
                    )
                delays = delays | {rest: _interval(path, value)}
            else:
                _check_used(path)
                _put(tables, path, value)
        spec = vary_spec(spec, of_spec) if of_spec else spec
        config = parse_config(tables, "configuration")
    except ConfigError as error:
        raise ConfigError(str(error) if variant.name == ONLY else f"{variant.name}: {error}") from error
    if speed != 1:
        config = replace(config, trainer=replace(config.trainer, max_wait_ms=round(config.trainer.max_wait_ms * speed)))
    return Setup(
        config,
        spec,
        replace(Delays.of(config, speed), **{f"{key}_ms": value for key, value in delays.items()}),
        {key: text for key, _, text in variant.settings},
    )


def axes_of(setups: Iterable[Setup]) -> dict[str, list[str]]:
    """Keys that every run of a grid sets and that have several values, with their values in order."""
    settings = [setup.settings for setup in setups]
    common = [key for key in settings[0] if all(key in of_one for of_one in settings)] if settings else []
    found = {key: list(dict.fromkeys(of_one[key] for of_one in settings)) for key in common}
    return {key: values for key, values in found.items() if len(values) > 1}


def numeric(text: str) -> float | None:
    """A value of an axis as a number, intervals in seconds; None for what is none."""
    try:
        return float(text.replace("_", ""))
    except ValueError:
        pass
    try:
        return parse_interval(text) / 1000
    except ConfigError:
        return None


def _check_used(path: str) -> None:
    """Refuses a key that decides nothing in a backtest."""
    table, _, key = path.partition(".")
    keys = _CONFIG_KEYS.get(table)
    if table in _UNUSED_TABLES or (keys and key not in keys):
        used = ", ".join(f"{name}.{k}" if k else f"{name}." for name, ks in _CONFIG_KEYS.items() for k in ks or [""])
        raise ConfigError(f"{path}: decides nothing in a backtest; what does: {used}, delays., spec.")


def _interval(path: str, value: Any) -> int:
    try:
        return parse_interval(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _put(tables: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"{path}: {parent} is no table")
    tables[key] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _split(text: str) -> Iterator[str]:
    """Parts between commas outside of brackets."""
    depth, part = 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            yield part
            part = ""
        else:
            part += character
    yield part
