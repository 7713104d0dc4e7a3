"""A recording reads back as it was written, replays in event time order, and says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fastavro
import numpy as np
import pytest

from rillet.recordings import Recording, RecordingError, RecordingWriter
from rillet.recordings.format import ACTIONS_FILE, FEATURES_FILE, INFO_FILE, TRUTH_FILE
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import CODECS, ActionEvent, FeatureEvent, RecordError, encode, parse_spec

SPEC = parse_spec(
    """
[spec]
name = "tiny"
[[context]]
name = "user"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 2
kind = "id"
[[tasks]]
name = "click"
action = "click"
window_ms = 1000
"""
)


def feature(request_id: str, time_ms: int, films: tuple[int, ...] = (5, 6)) -> FeatureEvent:
    user, _ = SPEC.encode_side("context", {"user": [1]})
    items, _ = SPEC.encode_side("item", {"film": films})
    return FeatureEvent(request_id, time_ms, SPEC.hash, user, np.arange(len(films)), items)


def action(request_id: str, time_ms: int) -> ActionEvent:
    return ActionEvent(request_id, time_ms, 0, "click", 2.5, f"{request_id}-{time_ms}")


def write(directory: Path, *events: FeatureEvent | ActionEvent) -> Recording:
    with RecordingWriter(directory, SPEC, "tiny") as writer:
        for event in events:
            writer.write(event)
    return Recording(directory)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return write(tmp_path / "rec", feature("a", 100), action("a", 150), feature("b", 200), action("b", 210))


def test_events_read_back_byte_for_byte(recording: Recording) -> None:
    expected = [feature("a", 100), feature("b", 200)]
    assert [encode(event) for event in recording.features()] == [encode(event) for event in expected]
    assert list(recording.actions()) == [action("a", 150), action("b", 210)]


def test_info_has_counts_span_and_spec(recording: Recording) -> None:
    info = recording.info
    assert (info.dataset, info.requests, info.impressions, info.actions) == ("tiny", 2, 4, 2)
    assert (info.first_event_ms, info.last_event_ms) == (100, 210)
    assert info.spec == SPEC


def test_the_files_are_ordinary_avro_containers(recording: Recording) -> None:
    with (recording.directory / FEATURES_FILE).open("rb") as file:
        assert [row["request_id"] for row in fastavro.reader(file)] == ["a", "b"]


def test_a_recording_written_by_fastavro_alone_is_read(tmp_path: Path) -> None:
    for name, kind, event in (
        (FEATURES_FILE, FeatureEvent, feature("a", 1)),
        (ACTIONS_FILE, ActionEvent, action("a", 2)),
    ):
        with (tmp_path / name).open("wb") as file:
            # Without the optional field: Avro fills in its default.
            schema = json.loads(json.dumps({k: v for k, v in CODECS[kind].schema.items() if not k.startswith("__")}))
            schema["fields"] = [f for f in schema["fields"] if f["name"] not in ("model", "action_id")]
            row = {k: v for k, v in CODECS[kind].to_avro(event).items() if k not in ("model", "action_id")}
            fastavro.writer(file, fastavro.parse_schema(schema), [row])
    spec = (write(tmp_path / "other").directory / INFO_FILE).read_text()
    info = json.loads(spec) | {"counts": {"requests": 1, "impressions": 2, "actions": 1}, "time_span_ms": [1, 2]}
    (tmp_path / INFO_FILE).write_text(json.dumps(info))
    recording = Recording(tmp_path)
    assert [event.request_id for event in recording.features()] == ["a"]
    assert list(recording.actions()) == [replace(action("a", 2), action_id=None)]


def test_events_interleave_by_event_time_with_the_feature_first_at_equal_times(tmp_path: Path) -> None:
    recording = write(
        tmp_path, feature("a", 100), feature("b", 200), action("a", 200), action("b", 201), action("a", 300)
    )
    order = [(type(event).__name__[0], event.request_id, event.event_time_ms) for event in recording.events()]
    assert order == [("F", "a", 100), ("F", "b", 200), ("A", "a", 200), ("A", "b", 201), ("A", "a", 300)]


def test_an_action_stamped_before_its_feature_still_comes_after_it(tmp_path: Path) -> None:
    recording = write(
        tmp_path, feature("a", 100), feature("b", 200), action("b", 50), action("x", 60), action("a", 150)
    )
    order = [(type(event).__name__[0], event.request_id) for event in recording.events()]
    assert order == [("F", "a"), ("A", "a"), ("F", "b"), ("A", "b"), ("A", "x")]


def test_without_recording_json_it_is_no_recording(recording: Recording) -> None:
    (recording.directory / INFO_FILE).unlink()
    with pytest.raises(RecordingError, match=r"recording\.json: is missing"):
        Recording(recording.directory)


def test_an_aborted_write_leaves_the_old_recording_as_it_was(recording: Recording) -> None:
    before = {path.name: path.read_bytes() for path in recording.directory.iterdir()}

    def interrupted() -> None:
        with RecordingWriter(recording.directory, SPEC, "tiny") as writer:
            writer.write(feature("c", 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.read_bytes() for path in recording.directory.iterdir()} == before
    assert len(list(Recording(recording.directory).features())) == recording.info.requests


def test_side_files_of_a_replaced_recording_go_with_it(tmp_path: Path) -> None:
    generate_synthetic(tmp_path, requests=3)
    assert (tmp_path / TRUTH_FILE).exists()
    with RecordingWriter(tmp_path, SPEC, "tiny") as writer:
        writer.write(feature("c", 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actions.avro", "features.avro", "recording.json"]


def test_a_recording_that_cannot_be_completed_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_synthetic(tmp_path, requests=3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rillet.recordings.format.os.fsync", full)
    with pytest.raises(RecordingError, match="No space left"):
        generate_synthetic(tmp_path, requests=5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_aborted_first_write_leaves_no_recording(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RecordingWriter(tmp_path, SPEC, "tiny") as writer:
            writer.write(feature("c", 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(RecordingError, match="is missing"):
        Recording(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_other_things_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RecordingError, match=r"thesis\.tex"):
        RecordingWriter(tmp_path, SPEC, "tiny")


def test_an_event_of_another_spec_is_refused_on_writing(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, SPEC, "tiny")
    with pytest.raises(RecordError, match="spec_hash"):
        writer.write(replace(feature("a", 1), spec_hash=7))


@pytest.mark.parametrize("damage", ["cut", "noise", "text", "empty"])
def test_a_damaged_file_is_named(recording: Recording, damage: str) -> None:
    path = recording.directory / FEATURES_FILE
    data = path.read_bytes()
    spoilt = {"cut": data[:-20], "noise": data[:-40] + b"\xff" * 40, "text": b"hello", "empty": b""}[damage]
    path.write_bytes(spoilt)
    with pytest.raises(RecordingError, match=r"features\.avro"):
        list(Recording(recording.directory).features())


def test_a_file_cut_between_two_blocks_is_noticed_by_its_count(recording: Recording) -> None:
    with (recording.directory / ACTIONS_FILE).open("wb") as file:
        fastavro.writer(file, CODECS[ActionEvent].schema, [CODECS[ActionEvent].to_avro(action("a", 150))])
    with pytest.raises(RecordingError, match=r"holds 1 records, recording\.json says 2"):
        list(recording.actions())


def test_swapped_files_are_noticed(recording: Recording) -> None:
    features, actions = recording.directory / FEATURES_FILE, recording.directory / ACTIONS_FILE
    features.write_bytes(actions.read_bytes())
    with pytest.raises(RecordingError, match=r"features\.avro"):
        list(recording.features())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "format is 'else'"),
        ({"counts": {}}, "requests is missing"),
        ({"spec": "[spec"}, "spec: "),
        ({"time_span_ms": ["x", "y"]}, "malformed"),
    ],
)
def test_a_wrong_recording_json_is_named_with_its_key(
    recording: Recording, change: dict[str, object], message: str
) -> None:
    path = recording.directory / INFO_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordingError, match=message):
        Recording(recording.directory)


@pytest.mark.parametrize("hash_", ["0x1234", None])
def test_a_recording_whose_events_carry_another_hash_than_their_spec_has_now_is_refused(
    recording: Recording, hash_: str | None
) -> None:
    path = recording.directory / INFO_FILE
    info = json.loads(path.read_text())
    assert info.pop("spec_hash") == f"{SPEC.hash:#x}"
    path.write_text(json.dumps(info | ({"spec_hash": hash_} if hash_ else {})))
    with pytest.raises(RecordingError, match=r"another version of rillet.*dead letter; record or generate it again"):
        Recording(recording.directory)
