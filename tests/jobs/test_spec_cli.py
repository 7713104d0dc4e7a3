"""`rillet spec diff`: what a change means, and the exit status by which a deployment stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rillet.__main__ import main
from rillet.schemas import dump_spec, parse_spec
from tests.jobs.film_spec import SPEC

LIKE = '[[tasks]]\nname = "like"\naction = "like"\nwindow_ms = 5000\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("old.toml", "new.toml"):
        (tmp_path / name).write_text(SPEC)
    return tmp_path / "old.toml", tmp_path / "new.toml"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["spec", "diff", *map(str, arguments)])


def test_equal_specs_have_no_differences(files: tuple[Path, Path]) -> None:
    result = run(*files)
    assert result.exit_code == 0
    assert result.output.endswith("no differences\n")


def test_a_compatible_change_is_told_with_what_it_means(files: tuple[Path, Path]) -> None:
    files[1].write_text(SPEC.replace("negative_rate = 0.5", "negative_rate = 0.25") + LIKE)
    result = run(*files)
    assert result.exit_code == 0
    assert (
        "tasks.watch.negative_rate: 0.5, now 0.25\n  joiner   goes on; requests that were joined before"
        in result.output
    )
    assert "tasks.like: added (action like)\n" in result.output
    assert "  serving  deploy last the clients that read its score\n" in result.output
    assert "compatible: name both files in also_accepts" in result.output


def test_an_incompatible_change_has_a_status_of_its_own(files: tuple[Path, Path]) -> None:
    files[1].write_text(SPEC.replace('kind = "id"', 'kind = "token"'))
    result = run(*files)
    assert result.exit_code == 3
    assert "slot 16 was kind id, now kind token: take a number that was never used\n  refused" in result.output
    assert "incompatible: 1 of 1 changes are refused" in result.output


def test_the_json_form_is_for_programs(files: tuple[Path, Path]) -> None:
    files[1].write_text(SPEC + LIKE)
    body = json.loads(run(*files, "--json").output)
    assert body["compatible"] is True
    assert body["old"] == {"name": "films", "hash": f"{parse_spec(SPEC).hash:#x}"}
    assert [change["path"] for change in body["changes"]] == ["tasks.like"]


def test_a_file_that_is_no_spec_is_something_to_mend(files: tuple[Path, Path]) -> None:
    files[1].write_text("[spec]\n")
    result = run(*files)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"rillet spec: feature spec {files[1]}: spec.name")


def test_a_spec_written_back_is_the_same(files: tuple[Path, Path]) -> None:
    files[1].write_text(dump_spec(parse_spec(SPEC)))
    assert run(*files).output.endswith("no differences\n")
