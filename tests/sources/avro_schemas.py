"""The Avro schema of the records in ``support.py``."""

from __future__ import annotations

from typing import Any

ARTICLE = {
    "type": "record",
    "name": "Article",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "categories", "type": ["null", {"type": "array", "items": "string"}], "default": None},
        {"name": "age_hours", "type": "double"},
    ],
}
PAGE: dict[str, Any] = {
    "type": "record",
    "name": "Page",
    "fields": [
        {"name": "page_id", "type": "string"},
        {"name": "shown_at", "type": "long"},
        {"name": "user", "type": {"type": "record", "name": "User", "fields": [{"name": "id", "type": "long"}]}},
        {"name": "device", "type": {"type": "enum", "name": "Device", "symbols": ["phone", "desk"]}},
        {"name": "recent", "type": {"type": "array", "items": "string"}},
        {"name": "articles", "type": {"type": "array", "items": ARTICLE}},
    ],
}
