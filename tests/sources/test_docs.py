"""docs/sources.md: every example in it works as it stands."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import fastavro
import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.schemas import RecordError
from tests.sources.registries import framed, registry_server
from tests.sources.support import as_json, features_of, page

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
SECTIONS = {
    title.strip(): body
    for title, _, body in (part.partition("\n") for part in PAGE.read_text("utf-8").split("\n## ")[1:])
}


def blocks(section: str, language: str) -> list[str]:
    """Code blocks of a section."""
    every = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
    found = [textwrap.dedent(text) for of, text in every if of == language]
    assert found, f"no block of {language!r} in {section!r}"
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader is, with the feature spec of the page."""
    (tmp_path / "news.toml").write_text(blocks("In five minutes", "toml")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(folder: Path, tables: str) -> None:
    (folder / "rillet.toml").write_text(f'spec = "news.toml"\n{tables}')


def check(file: str, kind: str) -> str:
    result = CliRunner().invoke(main, ["check-config", "--sample", file, "--topic", kind])
    assert result.exit_code == 0, result.output
    return result.output


def test_pages_as_json_give_what_the_page_shows(folder: Path) -> None:
    section = "JSON, one record per page"
    configure(folder, blocks(section, "toml")[0])
    for name, text in zip(("pages.jsonl", "clicks.jsonl"), blocks(section, "json"), strict=True):
        (folder / name).write_text(text)
    assert check("pages.jsonl", "features") == blocks(section, "")[-1]
    assert "request p-1, 2025-11-22T00:06:44.250Z, action click on impression 'a23'\n" in check(
        "clicks.jsonl", "actions"
    )


def test_scores_are_shown_with_their_candidates(folder: Path) -> None:
    section = "Scores of another ranker"
    configure(folder, blocks(section, "toml")[0])
    (folder / "pages.jsonl").write_text(blocks(section, "json")[0])
    assert check("pages.jsonl", "features") == blocks(section, "")[-1]


def test_values_of_actions_are_shown_and_missed(folder: Path) -> None:
    section = "Values of actions"
    task, table = blocks(section, "toml")
    spec = folder / "news.toml"
    spec.write_text(f"{spec.read_text()}\n{task}")
    (folder / "leaves.jsonl").write_text(blocks(section, "json")[0])
    good, bad = blocks(section, "")
    configure(folder, table)
    assert check("leaves.jsonl", "actions") == good
    configure(folder, table.replace('"spent.seconds"', '"seconds"'))
    result = CliRunner().invoke(main, ["check-config", "--sample", "leaves.jsonl", "--topic", "actions"])
    assert (result.exit_code, result.output) == (1, bad)


def test_impressions_as_json_meet_their_actions(folder: Path) -> None:
    section = "JSON, one record per impression"
    configure(folder, blocks(section, "toml")[0])
    shown, done = blocks(section, "json")
    (folder / "shown.jsonl").write_text(shown)
    (folder / "done.jsonl").write_text(done)
    assert "request v-1|a17, 2025-11-22T00:06:40.000Z, 1 candidate\n" in check("shown.jsonl", "features")
    assert "request v-1|a23, 2025-11-22T00:06:44.000Z, action click on impression 'a23'\n" in check(
        "done.jsonl", "actions"
    )


def test_pages_as_avro_are_those_as_json(folder: Path) -> None:
    section = "Avro with a schema registry"
    schema = json.loads(blocks(section, "json")[0])
    pages = [json.loads(line) for line in blocks("JSON, one record per page", "json")[0].splitlines()]
    same = blocks("JSON, one record per page", "")[-1].splitlines()
    with registry_server() as server:
        server.add(7, schema)
        configure(folder, blocks(section, "toml")[0].replace("http://127.0.0.1:8081", server.url))
        (folder / "message.bin").write_bytes(framed(7, schema, pages[0]))
        assert check("message.bin", "features").replace(" 7.0 (", " 7 (").splitlines()[1:] == [
            line.replace("        7", "        7") for line in same[1:]
        ]
    with (folder / "pages.avro").open("wb") as file:
        fastavro.writer(file, schema, pages)
    assert "request p-1" in check("pages.avro", "features")


def test_the_messages_are_those_of_the_code() -> None:
    shown = blocks("How values are read", "")[-1].splitlines()
    articles = page()["articles"]
    articles[2]["age_hours"] = "n/a"
    for message, record in zip(
        shown, (page(articles=articles), page(shown_at=1763770000), page(recent=["a"] * 5)), strict=True
    ):
        with pytest.raises(RecordError) as caught:
            features_of().native(None, as_json(record))
        assert str(caught.value) == message
