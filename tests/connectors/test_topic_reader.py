"""What the reader of topics makes of a record's headers."""

from __future__ import annotations

import pytest

from rillet.connectors.topic_reader import UNREADABLE_MS, _ingest_ms


@pytest.mark.parametrize(
    ("headers", "ingest_ms"),
    [
        ((), -1),
        ((("ingest_ms", None),), -1),
        ((("ingest_ms", b"5"),), 5),
        ((("ingest_ms", b"5"), ("other", b"x"), ("ingest_ms", b"6")), 6),
        ((("ingest_ms", b"5"), ("ingest_ms", None)), -1),
        ((("ingest_ms", b""),), UNREADABLE_MS),
        ((("ingest_ms", b"1_000"),), UNREADABLE_MS),
        ((("ingest_ms", b"1000000000001.7"),), UNREADABLE_MS),
        ((("ingest_ms", b" 5"),), UNREADABLE_MS),
        ((("ingest_ms", b"+5"),), UNREADABLE_MS),
    ],
)
def test_the_last_ingest_header_counts_and_has_digits_alone(
    headers: tuple[tuple[str, bytes | None], ...], ingest_ms: int
) -> None:
    assert _ingest_ms(headers) == ingest_ms
