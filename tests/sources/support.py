"""What the tests of sources share: a feature spec, the tables of a news site, and records of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rillet.schemas import parse_spec
from rillet.sources import ActionSource, Converter, FeatureSource, SourcesConfig, make_converter

SPEC = parse_spec("""
[spec]
name = "news"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "device"
slot = 2
kind = "token"
[[context]]
name = "recent"
slot = 3
kind = "history"
of = "article"
action = "read"
by = "user"
max_values = 4
[[item]]
name = "article"
slot = 16
kind = "token"
[[item]]
name = "categories"
slot = 17
kind = "token"
max_values = 3
[[item]]
name = "age"
slot = 18
kind = "number"
bins = [1.0, 6.0, 24.0]
[[dense]]
name = "age_hours"
[[tasks]]
name = "click"
action = "click"
window_ms = 60_000
[[tasks]]
name = "like"
action = "like"
window_ms = 600_000
""")

PAGES = SourcesConfig(
    FeatureSource(
        format="json",
        request_id="page_id",
        time="shown_at",
        items="articles",
        impression_id="id",
        slots={"user": "user.id", "article": "id", "age": "age_hours"},
    ),
    ActionSource(
        format="json",
        request_id="page_id",
        impression_id="article",
        time="at",
        action="type",
        names={"CLICK": "click"},
    ),
)
#: one event per impression
IMPRESSIONS = SourcesConfig(replace(PAGES.features, items=""), PAGES.actions)

SHOWN_MS = 1_763_770_000_250


def page(**changes: Any) -> dict[str, Any]:
    """A record of the features topic with three candidates."""
    articles = [
        {"id": "a17", "categories": ["sport", "local"], "age_hours": 0.5},
        {"id": "a23", "age_hours": 7},
        {"id": "a42", "categories": [], "age_hours": 30.25},
    ]
    return {
        "page_id": "p1",
        "shown_at": SHOWN_MS,
        "user": {"id": 7},
        "device": "phone",
        "recent": ["a3", "a1"],
        "articles": articles,
        **changes,
    }


def impression(**changes: Any) -> dict[str, Any]:
    """A record of a features topic with one impression per record."""
    return {
        "page_id": "p1",
        "shown_at": SHOWN_MS,
        "user": {"id": 7},
        "device": "phone",
        "id": "a17",
        "age_hours": 0.5,
        **changes,
    }


def click(**changes: Any) -> dict[str, Any]:
    """A record of the actions topic."""
    return {"page_id": "p1", "article": "a23", "at": SHOWN_MS + 4_000, "type": "CLICK", **changes}


def features_of(sources: SourcesConfig = PAGES, **more: Any) -> Converter:
    converter = make_converter("features", SPEC, sources, **more)
    assert converter is not None
    return converter


def actions_of(sources: SourcesConfig = PAGES, **more: Any) -> Converter:
    converter = make_converter("actions", SPEC, sources, **more)
    assert converter is not None
    return converter


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
