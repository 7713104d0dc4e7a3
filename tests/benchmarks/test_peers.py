"""Peers are given the rows and the labels of the backtest, in their own form, and answer in its order."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from rillet.backtest.errors import BacktestError
from rillet.benchmarks.learning import VOWPAL_WABBIT, peers_of
from rillet.benchmarks.names import PEER_LABELS
from rillet.benchmarks.peer_scorer import PeerScorer
from rillet.benchmarks.peers.frames import read_frame, write_frame
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import ActionEvent, FeatureEvent, parse_spec

SPEC = parse_spec(
    """
    [spec]
    name = "films"
    [[context]]
    name = "user"
    slot = 1
    kind = "id"
    [[context]]
    name = "recent"
    slot = 2
    kind = "id"
    max_values = 3
    [[item]]
    name = "film"
    slot = 3
    kind = "id"
    [[cross]]
    name = "recent_film"
    slot = 4
    slots = ["recent", "film"]
    [[dense]]
    name = "price"
    [[tasks]]
    name = "watch"
    action = "watch"
    window_ms = 1000
    labels = "aligned"
    """
)
#: stands in for the library: it writes down what it is told, and scores a row by the length of its text
STUB = """
class Workspace:
    def __init__(self, options):
        self.file = open({path!r}, "a", buffering=1)
        self.file.write(options + chr(10))
    def learn(self, line):
        self.file.write("learn " + line + chr(10))
    def predict(self, line):
        self.file.write("score " + line + chr(10))
        return float(line.rpartition("|N 0:")[2])
"""


def request(name: str, time_ms: int, films: list[int], prices: list[float], recent: list[int]) -> FeatureEvent:
    context, lengths = SPEC.encode_side("context", {"user": [7], "recent": [recent]})
    items, _ = SPEC.encode_side("item", {"film": films})
    return FeatureEvent(
        name,
        time_ms,
        SPEC.hash,
        context,
        np.arange(len(films)),
        items,
        context_lengths=lengths,
        dense=np.array(prices, np.float32),
    )


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the peer was told, a line each."""
    (tmp_path / "vowpalwabbit.py").write_text(STUB.format(path=str(tmp_path / "said.txt")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "said.txt"


def test_a_peer_learns_the_labels_and_scores_in_the_order_of_the_requests(said: Path, tmp_path: Path) -> None:
    shown = [request("a", 1_000, [5, 6], [0.5, 1.5], [8, 9]), request("b", 1_100, [6], [2.5], [])]
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=tmp_path / "joiner")
    for event in [*shown, ActionEvent("a", 1_200, 1, "watch")]:
        join.take(event)
    join.finish()
    peer = PeerScorer(Path(sys.executable), "vowpal_wabbit", "-b 4", SPEC)

    logits = peer.score(shown)
    for visible_ms, block in join.visible(1 << 62):
        peer.learn(visible_ms, block)
    peer.publish(3_000, dense=True)
    peer.close()
    join.close()

    assert logits.tolist() == [[0.5], [1.5], [2.5]]
    options, *lines = said.read_text().splitlines()
    assert options == "--quiet --loss_function logistic --link identity -b 4"
    assert lines[:3] == [
        "score |a 7 |b 8 9 |c 5 |N 0:0.5",
        "score |a 7 |b 8 9 |c 6 |N 0:1.5",
        "score |a 7 |b  |c 6 |N 0:2.5",
    ]
    assert sorted(lines[3:]) == [
        "learn -1 1 |a 7 |b  |c 6 |N 0:2.5",
        "learn -1 1 |a 7 |b 8 9 |c 5 |N 0:0.5",
        "learn 1 1 |a 7 |b 8 9 |c 6 |N 0:1.5",
    ]
    assert (peer.learned_rows, peer.scored_rows) == (3, 3)
    assert peer.rows_per_second() > 0


def test_a_peer_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vowpalwabbit.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peer = PeerScorer(Path(sys.executable), "vowpal_wabbit", "-b 4", SPEC)
    with pytest.raises(BacktestError, match="vowpal_wabbit -b 4: its process ended with 3"):
        peer.score([request("a", 1_000, [5], [0.5], [])])
    peer.close()


def test_grids_have_the_crosses_of_the_spec_in_both_label_modes() -> None:
    peers = peers_of(SPEC, ("vw", "river"))
    assert {peer.labels for peer in peers} == set(PEER_LABELS)
    of_vw = [peer.options for peer in peers if peer.library == "vw"]
    assert len(of_vw) == len(PEER_LABELS) * len(VOWPAL_WABBIT)
    assert "-b 24 -q bc" in of_vw
    assert all('"crosses": [[1, 2]]' in peer.options for peer in peers if peer.library == "river")


def test_frames_come_back_as_they_were_written() -> None:
    stream = io.BytesIO()
    write_frame(stream, "learn", {"fids": np.array([1, -2]), "none": np.empty(0, np.float32)}, seconds=0.5)
    write_frame(stream, "figures", {})
    stream.seek(0)
    kind, values, arrays = read_frame(stream) or ("", {}, {})
    assert (kind, values) == ("learn", {"seconds": 0.5})
    assert arrays["fids"].tolist() == [1, -2]
    assert (arrays["none"].dtype, len(arrays["none"])) == (np.float32, 0)
    assert read_frame(stream) == ("figures", {}, {})
    assert read_frame(stream) is None


def test_a_frame_that_is_cut_is_no_frame() -> None:
    stream = io.BytesIO()
    write_frame(stream, "learn", {"fids": np.array([1, -2])})
    with pytest.raises(EOFError, match="fids"):
        read_frame(io.BytesIO(stream.getvalue()[:-1]))


def test_given_lines_take_the_place_of_a_grid() -> None:
    peers = peers_of(SPEC, ("vw",), {"vw": ["-b 24 {crosses} --coin"], "river": []})
    (options,) = {peer.options for peer in peers}
    assert [peer.labels for peer in peers] == list(PEER_LABELS)
    assert options.startswith("-b 24 -q ")
    assert options.endswith(" --coin")


def test_a_label_mode_alone_halves_the_grid() -> None:
    peers = peers_of(SPEC, ("vw",), modes=("aligned",))
    assert [peer.labels for peer in peers] == ["aligned"] * len(VOWPAL_WABBIT)
