"""Example files for tests of several modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.connectors.example_writer import ExampleWriter
from rillet.schemas import ExampleBlock, decode_as
from rillet.trainer import ReadBlock
from tests.pipelines.dumped import DUMPED, RECORDS
from tests.trainer.blocks import RAGGED


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The first records as files, of several groups."""
    url = str(tmp_path / "files")
    writer = ExampleWriter(url, RAGGED, "topic examples", group_rows=100)
    writer.open()
    for record in RECORDS[:DUMPED]:
        writer.add(ReadBlock(record.partition, record.offset, decode_as(ExampleBlock, record.value)))
        if writer.full:
            writer.write_group()
    writer.commit({0: 4, 1: 4})
    return url
