"""Topics in formats of their own are shown as what the joiner makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rillet.inspection.cli import peek
from rillet.inspection.peek import Peek, converts_of
from rillet.inspection.records import RecordReader
from rillet.jobs.config import load_config
from rillet.schemas import SpecRegistry, dump_spec
from tests.inspection.samples import NOW_MS, SPEC, on_topic

SOURCES = """
spec = "shop.spec.toml"
[sources.actions]
format = "json"
request_id = "page"
impression_id = "article"
time = "at"
action = "type"
[sources.actions.names]
WATCH = "watch"
"""


def test_a_json_action_is_shown_by_the_names_of_the_spec_and_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    (tmp_path / "rillet.toml").write_text(SOURCES)
    converts = converts_of(load_config(tmp_path / "rillet.toml"), SpecRegistry(SPEC))
    assert set(converts) == {"actions"}
    reader = RecordReader(SPEC, sources=converts)
    raw = f'{{"page": "r-1", "article": 50, "at": {NOW_MS - 4_000}, "type": "WATCH"}}'
    view = reader.describe(on_topic(raw.encode(), "actions", key=None), "actions")
    assert (view["request_id"], view["action"], view["tasks"], view["source"]) == ("r-1", "watch", ["watch"], raw)
    assert "problem" not in view
    wrong = reader.describe(on_topic(raw.replace("r-1", "").encode(), "actions"), "actions")
    assert wrong["record"] is None
    assert wrong["value"].startswith('{"page": ""')


def test_of_what_cannot_be_decoded_only_what_mentions_the_request_is_shown_and_the_rest_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    (tmp_path / "rillet.toml").write_text(SOURCES)
    right = f'{{"page": "r-1", "article": 50, "at": {NOW_MS}, "type": "WATCH"}}'
    values = [right, right.replace('"at"', '"when"'), *2_060 * [right.replace("r-1", "r-2").replace('"at"', '"when"')]]
    records = [on_topic(value.encode(), "actions", key=None, offset=at) for at, value in enumerate(values)]
    monkeypatch.setattr("rillet.inspection.peek.require_broker", lambda _: None)
    monkeypatch.setattr(
        "rillet.inspection.peek.find_records",
        lambda _, topic, wanted, **__: ([record for record in records if wanted(record)], 0),
    )
    shown, told = list[str](), list[str]()
    config = load_config(tmp_path / "rillet.toml")
    looking = Peek(config, rows=None, as_json=True, show=shown.append, tell=told.append)
    assert looking.request("r-1", ("actions",), 100_000)
    assert [json.loads(line)["offset"] for line in shown] == [0, 1]
    (line,) = told
    assert line.startswith(
        "actions: 2,060 records cannot be decoded, so that nobody can tell whose they are; the first"
    )
    assert line.endswith("at actions 1:2: at: is missing or null")
    assert not looking.request("r-3", ("actions",), 100_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--request", "r-1", "-n", "10"), "no -n; --search N says how far back"),
        (("--request", "r-1", "--rows", "3"), "no --rows; --search N says how far back"),
        (("features", "--search", "3"), "--search is of --request ID"),
        (("deltas", "--request", "r-1"), "deltas know of no requests"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    (tmp_path / "rillet.toml").write_text(SOURCES)
    result = CliRunner().invoke(peek, [*arguments, "--config", str(tmp_path / "rillet.toml")])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
