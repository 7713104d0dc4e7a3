"""A recording joined in process to files: the audit's rows, whatever the memory, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
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
from rillet.recordings import Recording, RecordingError, RecordingWriter
from rillet.recordings.join import join_recording
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    SpecError,
    dump_spec,
    make_fids,
    parse_spec,
)
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
    joined = join_recording(recording, config, str(tmp_path / "files"), keep_open=True)
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
    assert (joined.refused_requests, joined.refused_actions, joined.late_requests) == (0, 0, 0)


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


SHOP = """
[spec]
name = "shop"
[[context]]
name = "user"
slot = 1
kind = "id"
%s
[[item]]
name = "film"
slot = 17
kind = "id"
[[tasks]]
name = "click"
action = "click"
window_ms = 600_000
labels = "%s"
"""
HISTORY = """
[[context]]
name = "recent"
slot = 2
kind = "history"
of = "film"
action = "click"
by = "user"
max_values = 5
"""
PLAIN = parse_spec(SHOP % ("", "aligned"))
START, MINUTE = 1_700_000_000_000, 60_000


def _request(name: str, minute: float) -> FeatureEvent:
    return FeatureEvent(
        request_id=name,
        event_time_ms=START + int(minute * MINUTE),
        spec_hash=PLAIN.hash,
        context_fids=make_fids(1, [1]),
        impression_ids=np.arange(1, 4),
        item_fids=make_fids(17, [1, 2, 3]),
    )


def _click(name: str, minute: float) -> ActionEvent:
    return ActionEvent(name, START + int(minute * MINUTE), 1, "click")


def _recorded(
    folder: Path, events: Sequence[FeatureEvent | ActionEvent], spec: FeatureSpec = PLAIN
) -> tuple[Recording, RilletConfig]:
    with RecordingWriter(folder / "shop", PLAIN, "shop") as writer:
        for event in events:
            writer.write(event)
    (folder / "shop.toml").write_text(dump_spec(spec))
    return Recording(folder / "shop"), RilletConfig(spec=folder / "shop.toml")


def test_a_request_id_that_comes_again_long_after_ends_nothing(tmp_path: Path) -> None:
    events = [_request("r", 0), _request("r", 60), *(_request(f"q{i}", 60 + i / 60) for i in range(20))]
    for name, spec in (("plain", PLAIN), ("filled", parse_spec(SHOP % (HISTORY, "aligned")))):
        (tmp_path / name).mkdir()
        found, config = _recorded(tmp_path / name, events, spec)
        joined = join_recording(found, config, str(tmp_path / name / "files"), keep_open=True)
        assert (joined.requests, joined.rows, joined.counters["features"]) == (22, 21 * 3, 21), name


def test_events_that_are_not_those_that_the_recording_names_are_refused(tmp_path: Path) -> None:
    found, config = _recorded(tmp_path, [_request("a", 0), _request("b", 1)])
    found.events = lambda: iter([_request("a", 0)])  # type: ignore[method-assign]
    with pytest.raises(RecordingError, match=r"1 requests and 0 actions were read, recording.json says 2 and 0"):
        join_recording(found, config, str(tmp_path / "files"))
    manifest = read_manifest(Files(str(tmp_path / "files")))
    assert manifest is not None
    assert manifest.rows == 0


def test_a_recording_of_which_much_would_be_lost_is_refused_with_all_counters(tmp_path: Path) -> None:
    # A backlog that arrives after newer requests: the joiner has forgotten its time.
    late = [_request(f"late{i}", i) for i in range(50)]
    events = [*(_request(f"new{i}", 3_000 + i) for i in range(50)), *late, _click("nobody", 3_100)]
    found, config = _recorded(tmp_path, events)
    with pytest.raises(RecordingError) as refused:
        join_recording(found, config, str(tmp_path / "files"))
    assert "100.00% of the requests or of the actions would be in no row" in str(refused.value)
    assert "late requests: 50" in str(refused.value)
    assert "orphan actions: 1" in str(refused.value)
    joined = join_recording(found, config, str(tmp_path / "files"), max_lost=1, keep_open=True)
    assert (joined.rows, joined.late_requests, joined.lost) == (50 * 3, 50, 1)


def test_events_of_another_spec_are_counted_with_and_without_histories_to_fill(tmp_path: Path) -> None:
    good = [_request(f"q{i}", i / 60) for i in range(3)]
    bad = replace(good[0], request_id="bad", context_fids=np.empty(0, np.int64))
    for name, spec in (("plain", PLAIN), ("filled", parse_spec(SHOP % (HISTORY, "aligned")))):
        (tmp_path / name).mkdir()
        found, config = _recorded(tmp_path / name, [*good, good[0]], spec)
        found.events = lambda: iter([bad, *good])  # type: ignore[method-assign]
        joined = join_recording(found, config, str(tmp_path / name / "files"), max_lost=1, keep_open=True)
        assert (joined.refused_requests, joined.rows) == (1, 9), name


@pytest.mark.parametrize("labels", ["aligned", "positives_first", "immediate"])
def test_rows_of_windows_that_the_recording_does_not_hold_to_their_end_are_left_out(
    tmp_path: Path, labels: str
) -> None:
    spec = parse_spec(SHOP % ("", labels))
    # With early_ms a window is over 605 s after the request.
    events = [_request("a", 0), _request("b", 2), _request("c", 5), _click("c", 6), _click("b", 12.09)]
    found, config = _recorded(tmp_path, events, spec)
    joined = join_recording(found, config, str(tmp_path / "files"), max_lost=1)
    assert {name for record in read_all(str(tmp_path / "files"), spec=spec) for name in record.block.request_ids} == {  # type: ignore[union-attr]
        "a",
        "b",
    }
    kept = join_recording(found, config, str(tmp_path / "kept"), max_lost=1, keep_open=True)
    assert joined.open_at_end == kept.rows - joined.rows == (4 if labels == "immediate" else 3)
    assert kept.open_at_end == 0


def test_options_that_do_not_go_together_are_refused(
    recording: Recording, config: RilletConfig, tmp_path: Path
) -> None:
    for arguments in (
        ("--recording", recording.directory),
        ("--to", tmp_path),
        ("--requests", 3),
        ("--max-lost", 0.5),
        ("--keep-open-windows",),
        ("--recording", recording.directory, "--to", tmp_path / "files", "--drain"),
    ):
        assert "Usage" in _run(tmp_path, *arguments).output
