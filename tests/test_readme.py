"""Every command in the documents exists, with its options; links between files lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from examples.films.client import CONFIG, infer_request

from rillet.__main__ import main
from rillet.jobs.config import load_config
from rillet.serving.features import RequestLayout
from rillet.serving.protocol import parse_infer_request

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def commands(path: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


ALL_COMMANDS = [command for path in DOCUMENTS for command in commands(path)]


def test_the_readme_shows_the_two_commands_first() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("rillet ")])
def test_every_rillet_command_is_one_of_the_cli(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    # parses and checks the arguments, runs nothing; paths that have to exist are replaced
    arguments = [str(ROOT) if argument.startswith("recordings/") else argument for argument in arguments]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, arguments)
    if "--config" in arguments:
        assert (ROOT / arguments[arguments.index("--config") + 1]).is_file()


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("make ")])
def test_every_make_target_exists(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_no_command_is_of_a_kind_that_is_not_checked() -> None:
    kinds = {shlex.split(line)[0] for line in ALL_COMMANDS}
    assert kinds <= {"make", "rillet", "flink", "docker"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (path.parent / t).exists()]
    assert not missing


def test_the_example_client_makes_a_request_that_a_server_takes() -> None:
    spec = load_config(CONFIG, environment={}).load_spec()
    body = infer_request(spec, "r1", user=7, films={17: "drama", 23: "comedy"})
    request = parse_infer_request(json.dumps(body).encode(), None)
    scored = RequestLayout(spec, max_rows=10).parse(request, now_ms=5, new_id="x")
    assert (scored.request_id, scored.rows, scored.event_time_ms) == ("r1", 2, 5)
    assert scored.impression_ids.tolist() == [17, 23]
