"""What a service was started with, to tell how that differs from a configuration: values by key, and digests of files.

Settings of the Kafka client may be secrets, so that their digests are kept and their names alone are shown.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from typing import Any

from rillet.jobs.config import RilletConfig, dump_config

_MAY_BE_SECRET = ("kafka.client.", "kafka.flink.")
_CONTENTS = "contents of "
_SHOWN, _NAMED = 60, 4


def record(config: RilletConfig) -> str:
    """Everything that a service reads at its start, as text for :func:`differences`."""
    found: dict[str, str] = {}
    for key, value in _flat(tomllib.loads(dump_config(config))).items():
        text = json.dumps(value)
        found[key] = _digest(text.encode()) if key.startswith(_MAY_BE_SECRET) else text
    files = [config.spec, *config.also_accepts, config.sources.features.schema, config.sources.actions.schema]
    for path in files:
        if path is not None and path.is_file():
            found[f"{_CONTENTS}{path}"] = _digest(path.read_bytes())
    return json.dumps(found, indent=1)


def differences(before: str | None, now: str) -> list[str]:
    """What is otherwise in a record than in another one, a phrase each; empty where they are equal."""
    if before == now:
        return []
    try:
        was: Mapping[str, str] = json.loads(before or "")
        new: Mapping[str, str] = json.loads(now)
        keys = [key for key in {**was, **new} if was.get(key) != new.get(key)]
    except (ValueError, TypeError, AttributeError):
        return ["what it was started with is not known"]
    # A file that was not read before, or is no longer, is told by the key that names it.
    keys = [key for key in keys if not key.startswith(_CONTENTS) or (key in was and key in new)] or keys
    told = [_difference(key, was.get(key), new.get(key)) for key in keys]
    return told if len(told) <= _NAMED else [*told[:_NAMED], f"and {len(told) - _NAMED} more"]


def _difference(key: str, was: str | None, now: str | None) -> str:
    if key.startswith(_CONTENTS):
        return f"other {key}"
    if key.startswith(_MAY_BE_SECRET):
        return f"another {key}"
    return f"{key} {_shown(was)}, now {_shown(now)}"


def _shown(text: str | None) -> str:
    text = "not set" if text is None else text
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
