"""The value and the id of an action, where a source says where they are."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rillet.schemas import ActionEvent, RecordError, decode_as
from rillet.sources import make_converter
from rillet.sources.avro_schemas import parse_schema
from tests.sources.registries import avro
from tests.sources.support import PAGES, SPEC, actions_of, as_json, click

SOURCES = replace(PAGES, actions=replace(PAGES.actions, value="cart.price", action_id="event"))


def read(**fields: Any) -> ActionEvent:
    return decode_as(ActionEvent, actions_of(SOURCES).native(None, as_json(click(**fields))).value or b"")


@pytest.mark.parametrize(("price", "value"), [(12.5, 12.5), (3, 3.0), (None, None)])
def test_the_value_is_the_number_at_its_path(price: float | None, value: float | None) -> None:
    assert read(cart={"price": price}).value == value


def test_an_action_without_them_has_neither() -> None:
    event = read()
    assert (event.value, event.action_id) == (None, None)
    assert read(event=77).action_id == "77"


@pytest.mark.parametrize(
    "price", ["12.5", True, float("nan"), float("inf"), [1], {"a": 1}, 10**400], ids=lambda price: repr(price)[:9]
)
def test_what_is_no_finite_number_is_refused_with_its_place(price: Any) -> None:
    with pytest.raises(RecordError, match=r"cart\.price: .* is no finite number"):
        read(cart={"price": price})


def test_a_decimal_of_avro_is_a_number() -> None:
    schema = {
        "type": "record",
        "name": "Action",
        "fields": [
            *({"name": name, "type": "string"} for name in ("page_id", "article", "type")),
            {"name": "at", "type": "long"},
            {
                "name": "price",
                "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}],
            },
        ],
    }
    source = replace(PAGES.actions, format="avro", schema=Path("action.avsc"), value="price")
    converter = make_converter("actions", SPEC, replace(PAGES, actions=source), schema=parse_schema(schema))
    assert converter is not None
    for price, value in ((Decimal("12.50"), 12.5), (None, None)):
        event = decode_as(ActionEvent, converter.native(None, avro(schema, click(price=price))).value or b"")
        assert event.value == value
