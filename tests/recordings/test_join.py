"""A recording joined in process to files: the audit's rows, whatever the memory, as a whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rillet.__main__ import main
from rillet.audit import comparison, plain_join
from rillet.connectors.example_manifest import read_manifest
from rillet.jobs.config import RilletConfig
from rillet.joiner import JoinerConfig
from rillet.recordings import Recording, RecordingError
from rillet.recordings.format import RecordingWriter
from rillet.recordings.join import join_recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_events
from rillet.schemas import ExampleBlock, FeatureEvent, SpecError, dump_spec
from rillet.sync.files import Files
from tests.connectors.example_sets import read_all

REQUESTS = 400


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=REQUESTS)
    return Recording(folder)


@pytest.fixture
def config(recording: Recording, tmp_path: Path) -> RilletConfig:
    (tmp_path / "spec.toml").write_text(dump_spec(recording.info.spec))
    return RilletConfig(spec=tmp_path / "spec.toml")


def _blocks(url: str, recording: Recording) -> list[ExampleBlock]:
    return [record.block for record in read_all(url, spec=recording.info.spec) if record.block is not None]


@pytest.mark.parametrize("memory_bytes", [256 << 20, 64 << 10], ids=["memory", "disk"])
def test_the_rows_are_those_that_the_audit_expects(
    recording: Recording, config: RilletConfig, tmp_path: Path, memory_bytes: int
) -> None:
    config = replace(config, joiner=JoinerConfig(memory_bytes=memory_bytes))
    joined = join_recording(recording, config, str(tmp_path / "files"))
    plain = plain_join.PlainJoin(recording.info.spec)
    for event in recording.events():
        if isinstance(event, FeatureEvent):
            plain.add_feature(event)
        else:
            plain.add_action(event)
    audit = comparison.audit_examples(plain.result(), _blocks(str(tmp_path / "files"), recording))
    assert audit.ok, audit.lines()
    assert audit.found == audit.expected == joined.rows > REQUESTS
    assert joined.requests == REQUESTS
    assert joined.refused == 0


def test_the_first_requests_have_all_their_actions(recording: Recording, config: RilletConfig, tmp_path: Path) -> None:
    whole, part = str(tmp_path / "whole"), str(tmp_path / "part")
    join_recording(recording, config, whole)
    assert join_recording(recording, config, part, requests=100).requests == 100
    first = [event.request_id for event in recording.events() if isinstance(event, FeatureEvent)][:100]

    def rows(url: str) -> list[tuple[str, int, bytes, bytes]]:
        return sorted(
            (block.request_ids[at], int(impression), labels.tobytes(), mask.tobytes())
            for block in _blocks(url, recording)
            for at, impression, labels, mask in zip(
                block.request_index,
                block.impression_ids,
                block.labels.reshape(len(block), -1),
                block.mask.reshape(len(block), -1),
                strict=True,
            )
            if block.request_ids[at] in set(first)
        )

    assert rows(part) == rows(whole)
    manifest = read_manifest(Files(part))
    assert manifest is not None
    assert manifest.rows == len(rows(part))
    assert manifest.next_offsets == {}
    assert manifest.source == f"recording {recording.info.dataset}"


def test_a_join_that_was_cut_off_has_left_nothing_that_counts_and_is_done_again(
    recording: Recording, config: RilletConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "files")

    def cut(*_: object) -> np.ndarray:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rillet.connectors.example_writer.write_manifest", _after_the_first(cut))
        with pytest.raises(KeyboardInterrupt):
            join_recording(recording, config, url)
    manifest = read_manifest(Files(url))
    assert manifest is not None
    assert manifest.rows == 0
    left = set((tmp_path / "files").glob("hour=*/*"))
    assert left
    joined = join_recording(recording, config, url)
    assert not left & set((tmp_path / "files").glob("hour=*/*"))
    with pytest.raises(RecordingError, match="holds example files already"):
        join_recording(recording, config, url)
    assert sum(len(block) for block in _blocks(url, recording)) == joined.rows


def _after_the_first(then: object) -> object:
    from rillet.connectors.example_manifest import write_manifest

    calls = iter([write_manifest])
    return lambda *arguments: next(calls, then)(*arguments)  # type: ignore[operator]


def test_requests_that_come_later_than_every_label_window_are_told(
    recording: Recording, config: RilletConfig, tmp_path: Path
) -> None:
    with RecordingWriter(tmp_path / "late", recording.info.spec, "synthetic") as writer:
        for event, _ in synthetic_events(100, config=ShopConfig(gap_ms=3_600_000)):
            writer.write(event)
        request = next(recording.features())
        for number in range(3):
            writer.write(replace(request, request_id=f"late-{number}"))
    joined = join_recording(Recording(tmp_path / "late"), config, str(tmp_path / "files"))
    assert joined.refused == 3
    assert joined.counters["features"] == 100


def test_a_spec_of_other_columns_is_refused(recording: Recording, config: RilletConfig, tmp_path: Path) -> None:
    spec = recording.info.spec
    (tmp_path / "spec.toml").write_text(dump_spec(replace(spec, item=spec.item[:-1], crosses=())))
    with pytest.raises(SpecError, match="differs from the recorded one"):
        join_recording(recording, config, str(tmp_path / "files"))
    assert not (tmp_path / "files").exists()


def _run(tmp_path: Path, *arguments: object) -> Result:
    (tmp_path / "rillet.toml").write_text('spec = "spec.toml"\n')
    command = ["join", "--config", str(tmp_path / "rillet.toml"), *map(str, arguments)]
    return CliRunner().invoke(main, command)


def test_the_command_says_what_it_has_written(recording: Recording, config: RilletConfig, tmp_path: Path) -> None:
    done = _run(tmp_path, "--recording", recording.directory, "--to", tmp_path / "files", "--requests", 50)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'files'}: " in done.output
    assert "rows of 50 requests in" in done.output


def test_options_that_do_not_go_together_are_refused(
    recording: Recording, config: RilletConfig, tmp_path: Path
) -> None:
    for arguments in (
        ("--recording", recording.directory),
        ("--to", tmp_path),
        ("--requests", 3),
        ("--recording", recording.directory, "--to", tmp_path / "files", "--drain"),
    ):
        assert "Usage" in _run(tmp_path, *arguments).output
