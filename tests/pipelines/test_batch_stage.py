"""What a batch stage plans, goes on with and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FILES_PARTITION, FilePlan, FileSource
from rillet.pipelines.batch_stage import BatchOptions, BatchStage
from rillet.pipelines.errors import BatchStageError
from rillet.schemas import ExampleBlock, decode_as, parse_spec
from rillet.trainer import ReadBlock
from tests.pipelines.dumped import DUMPED, RECORDS, VALUES, batch_stage
from tests.trainer.blocks import RAGGED


def test_a_checkpoint_in_the_midst_of_the_files_is_not_taken_online(url: str) -> None:
    kept = batch_stage(url).to_json()
    with pytest.raises(BatchStageError, match=f"33% through its batch stage on {url}: go on with --batch-from {url}"):
        BatchStage.planned(None, kept, {FILES_PARTITION: (2, 0)}, RAGGED, topic="examples", seed=0)


def test_a_batch_stage_goes_on_as_it_began_also_when_files_were_added(url: str) -> None:
    begun = batch_stage(url)
    writer = ExampleWriter(url, RAGGED, "topic examples")
    writer.open()
    writer.add(ReadBlock(0, 4, decode_as(ExampleBlock, RECORDS[8].value)))
    writer.commit({0: 5})
    positions = {FILES_PARTITION: (2, 0)}
    stage = BatchStage.planned(BatchOptions(url), begun.to_json(), positions, RAGGED, topic="examples", seed=0)
    assert stage == begun
    source = begun.source(RAGGED, positions)
    source.start()
    blocks = []
    while (records := source.poll(1, 0)) is not None:
        blocks += [record.block for record in records]
    assert sum(len(block) for block in blocks if block is not None) == DUMPED * 37 - 100


def test_files_of_another_topic_are_refused_at_the_first_start_and_later(url: str) -> None:
    with pytest.raises(BatchStageError, match="are of topic examples, but the configuration goes on with topic others"):
        BatchStage.planned(BatchOptions(url), None, {}, RAGGED, topic="others", seed=0)
    kept = batch_stage(url).to_json()
    with pytest.raises(BatchStageError, match="are of topic examples"):
        BatchStage.planned(None, kept, {FILES_PARTITION: (6, 0)}, RAGGED, topic="others", seed=0)


def test_rows_of_a_recording_go_with_any_topic(tmp_path: Path) -> None:
    writer = ExampleWriter(str(tmp_path / "files"), RAGGED, "recording films")
    writer.open()
    writer.add(ReadBlock(0, 0, decode_as(ExampleBlock, VALUES[0])))
    writer.commit()
    stage = BatchStage.planned(BatchOptions(str(tmp_path / "files")), None, {}, RAGGED, topic="others", seed=0)
    assert stage is not None
    assert stage.online_positions({}) == {}


def test_a_finished_stage_takes_no_other_files_and_no_more_passes(url: str) -> None:
    begun = batch_stage(url)
    kept, done = begun.to_json(), {FILES_PARTITION: (begun.plan.records, 0), 0: (5, 0)}
    for options in (BatchOptions("s3://other", then_online=True), BatchOptions(url, epochs=5)):
        with pytest.raises(BatchStageError, match=f"has already learned from {url}, with --epochs 1"):
            BatchStage.planned(options, kept, done, RAGGED, topic="examples", seed=0)
    again = BatchStage.planned(BatchOptions(url, then_online=True), kept, done, RAGGED, topic="examples", seed=7)
    assert again == begun


@pytest.mark.parametrize("options", [{"epochs": 2}, {"shuffle_rows": 100}])
def test_a_batch_stage_that_is_under_way_does_not_change_its_order(url: str, options: dict[str, int]) -> None:
    kept = batch_stage(url).to_json()
    with pytest.raises(BatchStageError, match="began with --epochs 1 --shuffle-rows 0"):
        BatchStage.planned(
            BatchOptions(url, **options), kept, {FILES_PARTITION: (2, 0)}, RAGGED, topic="examples", seed=0
        )


def test_other_files_are_refused_before_a_row_is_read(url: str, tmp_path: Path) -> None:
    kept = batch_stage(url)
    other = ExampleWriter(str(tmp_path / "other"), RAGGED, "topic examples")
    other.open()
    other.commit()
    source = FileSource(str(tmp_path / "other"), RAGGED, kept.plan)
    with pytest.raises(ExampleFilesError, match="not the files that the batch stage began with"):
        source.start()


def test_a_model_that_is_online_gets_no_batch_stage(url: str) -> None:
    with pytest.raises(BatchStageError, match="has learned from the examples topic already"):
        BatchStage.planned(BatchOptions(url), None, {0: (3, 0)}, RAGGED, topic="examples", seed=0)


def test_files_of_another_spec_or_none_are_refused(url: str, tmp_path: Path) -> None:
    other = parse_spec(
        '[spec]\nname = "other"\n[[item]]\nname = "film"\nslot = 16\nkind = "id"\n'
        '[[tasks]]\nname = "watch"\naction = "watch"\nwindow_ms = 1000\n'
    )
    with pytest.raises(ExampleFilesError, match=r"written under feature spec films .* ours is other"):
        BatchStage.planned(BatchOptions(url), None, {}, other, topic="examples", seed=0)
    with pytest.raises(ExampleFilesError, match="there are no example files"):
        BatchStage.planned(BatchOptions(str(tmp_path / "nothing")), None, {}, RAGGED, topic="examples", seed=0)


def test_files_without_rows_are_no_batch_stage(tmp_path: Path) -> None:
    ExampleWriter(str(tmp_path / "empty"), RAGGED, "topic examples").open()
    with pytest.raises(BatchStageError, match="no rows have been committed there yet"):
        BatchStage.planned(BatchOptions(str(tmp_path / "empty")), None, {}, RAGGED, topic="examples", seed=0)


def test_a_plan_survives_a_checkpoint(url: str) -> None:
    plan = batch_stage(url).plan
    assert FilePlan.from_json(plan.to_json()) == plan
