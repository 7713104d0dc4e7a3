"""Settings out of range are refused with the field's name; reading them does not load numba."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from rillet.embeddings import TableConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1": 0.1}, "^l1: 0.1 does nothing for adagrad, only for ftrl"),
        ({"l2": 0.1, "optimizer": "lazy_adam"}, "^l2: "),
        ({"amsgrad": True}, "^amsgrad: "),
        ({"weight_decay": 0.1, "optimizer": "ftrl"}, "^weight_decay: "),
        ({"weight_decay": 1e-5, "learning_rate": 0.03}, "^weight_decay: 1e-05 times learning_rate 0.03 is below 1e-06"),
        ({"weight_decay": 30.0, "learning_rate": 0.04}, "^weight_decay: 30.0 times learning_rate 0.04 is not below 1"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableConfig(**settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accumulator_half_life_s", -1.0),
        ("accumulator_half_life_s", 1.0),
        ("accumulator_half_life_s", float("inf")),
        ("l1", -1.0),
        ("l2", float("nan")),
        ("weight_decay", -1.0),
        ("optimizer", "sgd"),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("eps", -1e-9),
        ("initial_accumulator", -1.0),
        ("init_scale", float("inf")),
        ("seed", -1),
        ("chunk_rows", 0),
        ("chunk_rows", 1000),
        ("initial_capacity", 0),
        ("touched_capacity", 0),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        TableConfig(**{field: value})


@pytest.mark.parametrize("eps", [0.0, 1e-40])
def test_an_optimiser_that_would_divide_by_zero_is_refused(eps: float) -> None:
    for settings in ({"optimizer": "adagrad", "initial_accumulator": 0.0}, {"optimizer": "lazy_adam"}):
        with pytest.raises(ValueError, match=r"^eps: .* is 0 in float32"):
            TableConfig(eps=eps, **settings)  # type: ignore[arg-type]
    TableConfig(optimizer="adagrad", initial_accumulator=0.1, eps=eps)
    TableConfig(optimizer="none", initial_accumulator=0.0, eps=eps)


def test_reading_a_configuration_does_not_load_numba() -> None:
    code = "import sys, rillet.embeddings as e; e.TableConfig(); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_every_public_name_is_there_and_no_other() -> None:
    from rillet import embeddings

    assert all(getattr(embeddings, name) is not None for name in embeddings.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Table'"):
        _ = embeddings.Table  # type: ignore[attr-defined]
