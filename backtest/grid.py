"""Several settings of one configuration over the same recording, in parallel processes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rillet.backtest.report import BacktestReport
from rillet.jobs.config import RilletConfig, parse_config
from rillet.jobs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of a grid: its name is the settings that make it, empty for a grid of one."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def apply(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The tables of a configuration with these settings in them."""
        tables = deepcopy(dict(raw))
        for path, value in self.settings:
            *parents, key = path.split(".")
            table = tables
            for parent in parents:
                table = table.setdefault(parent, {})
                if not isinstance(table, dict):
                    raise ConfigError(f"--set {path}: {parent} is no table")
            table[key] = value
        return tables


def parse_grid(options: Sequence[str]) -> list[Variant]:
    """The variants of ``--set KEY=V1,V2`` options: every combination of their values.

    Values are TOML; what is none is text. A list is written in brackets, its commas do not separate.

    :raises ConfigError: an option without ``=``, a key twice.

    >>> [variant.name for variant in parse_grid(["model.dim=8,16", "model.kind=deepfm"])]
    ['model.dim=8', 'model.dim=16']
    >>> parse_grid(["model.hidden=[64,32],[32]"])[0].settings
    (('model.hidden', [64, 32]),)
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for option in options:
        key, equals, values = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {option}: expected KEY=VALUE or KEY=V1,V2, such as model.dim=8,16")
        if key in axes:
            raise ConfigError(f"--set {key}: stands twice; give all its values in one")
        axes[key] = [(text, _value(text)) for text in _split(values)]
    several = [key for key, values in axes.items() if len(values) > 1]
    return [
        Variant(
            ", ".join(f"{key}={text}" for key, (text, _) in zip(axes, point, strict=True) if key in several),
            tuple((key, value) for key, (_, value) in zip(axes, point, strict=True)),
        )
        for point in product(*axes.values())
    ]


def run_grid(
    directory: Path,
    raw: Mapping[str, Any],
    variants: Sequence[Variant],
    *,
    requests: int | None,
    judge_from: float,
    workers: int,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> BacktestReport:
    """Backtests all variants; baselines are those of the first.

    :param raw: tables of the configuration.
    :param workers: processes.
    :param on_done: called with the requests scored so far in all variants, and how many there will be.
    :raises ConfigError: a variant's configuration is wrong; nothing was run then.
    :raises RilletError: a run failed.
    """
    configs = [parse_config(variant.apply(raw), variant.name or "configuration") for variant in variants]
    reports: dict[int, BacktestReport] = {}
    # Not forked: torch and numba have threads by now, and a fork would copy their locks as they are.
    with ProcessPoolExecutor(min(workers, len(variants)), get_context("spawn"), _prepare_process) as pool:
        futures = {
            pool.submit(_run, directory, config, requests, judge_from, index == 0): index
            for index, config in enumerate(configs)
        }
        for future in as_completed(futures):
            reports[futures[future]] = future.result()
            on_done(len(reports), len(variants))
    first = reports[0]
    if len(variants) == 1:
        return first
    logits = {variant.name: reports[index].logits["model"] for index, variant in enumerate(variants)}
    logits |= {name: column for name, column in first.logits.items() if name != "model"}
    return replace(first, logits=logits)


def _prepare_process() -> None:
    """Settings of a whole process, which is why even a single run has one of its own."""
    import torch

    # Before any thread exists: the setting is inherited, not shared. One thread each, as there is one process per core.
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def _run(
    directory: Path, config: RilletConfig, requests: int | None, judge_from: float, baselines: bool
) -> BacktestReport:
    from rillet.backtest.loop import backtest
    from rillet.recordings import Recording

    return backtest(Recording(directory), config, requests=requests, judge_from=judge_from, baselines=baselines)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _split(text: str) -> Iterable[str]:
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
