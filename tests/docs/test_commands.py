"""Every command of the documents is run against real services, or has a reason here why it is not."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import pytest
import yaml

from rillet.__main__ import main
from rillet.connectors.config import TopicNames
from rillet.devstack.process import free_port
from rillet.jobs.config import BOOTSTRAP_VARIABLE, dump_config, load_config, parse_config
from rillet.jobs.services import probe, ready_url
from rillet.recordings import Recording, RecordingWriter
from rillet.recordings.films import FilmsConfig, film_events, films_spec
from rillet.recordings.histories import HistoryFiller
from rillet.recordings.replay import replay
from rillet.schemas import SpecError, parse_spec
from tests.docs.commands import DOCUMENTS, ROOT, blocks, commands

ALL_COMMANDS = {command: path for path in DOCUMENTS for command in commands(path)}
CONFIG = Path("examples/films/rillet.toml")
#: tests/examples/test_news_loop.py walks it
WALKED = ROOT / "examples" / "news" / "README.md"
#: how long a command that goes on for ever is let without a word, and its exit status where it leaves that to the signal
_LOOK_S, _INTERRUPTED = 6.0, 130

README, LOOKING, CHANGING = "README.md", "docs/operations/looking.md", "docs/operations/changing-the-spec.md"
#: page and command, run one after the other in one project, against a broker; a page that is not there has no steps.
#: "&": a service, stopped once it is ready. "^C": goes on for ever, is interrupted after some seconds
LOOP = (
    (README, "rillet check-config --config examples/films/rillet.toml"),
    (README, "rillet topics --config examples/films/rillet.toml"),
    (README, "rillet up --config examples/films/rillet.toml"),
    (README, "rillet status --config examples/films/rillet.toml"),
    (LOOKING, "rillet status --json"),
    (LOOKING, "rillet status --watch ^C"),
    (LOOKING, "rillet peek features -n 1 --config examples/films/rillet.toml"),
    (LOOKING, "rillet peek deltas -n 2 --rows 4"),
    (LOOKING, "rillet peek dead-letters"),
    (LOOKING, "rillet peek actions --follow ^C"),
    (LOOKING, "rillet peek --request 0dbda8969e984a91b583cc40ae03c48c"),
    (README, "rillet down --config examples/films/rillet.toml"),
    (CHANGING, "rillet join --until-latest --drain --config examples/films/rillet.toml"),
    (CHANGING, "rillet train --until-latest --config examples/films/rillet.toml"),
    (README, "rillet audit --config examples/films/rillet.toml"),
    (README, "rillet record var/recordings/monday --config examples/films/rillet.toml"),
    (
        README,
        "rillet replay var/recordings/monday --features again.features --actions again.actions"
        " --config examples/films/rillet.toml",
    ),
    (README, "rillet backtest var/recordings/monday --config examples/films/rillet.toml --set model.dim=8,16"),
)
#: in another project, whose model has not learned yet
FROM_FILES = (
    ("docs/batch-stage.md", "rillet up --broker-only --config examples/films/rillet.toml"),
    (README, "rillet join --recording var/recordings/monday --to var/films-files --config examples/films/rillet.toml"),
    (
        README,
        "rillet train --batch-from var/films-files --then-online --config examples/films/rillet.toml &",
    ),
)
STEPS = [(page, step) for page, step in (*LOOP, *FROM_FILES) if (ROOT / page).exists()]
#: why a command (what it begins with) is not run here; its options are checked all the same
NOT_RUN = {
    "make demo": "tests/demo runs the same demo on a few requests",
    "make test": "runs this",
    "docker compose up": "needs a Docker daemon; tests/jobs/test_compose.py checks the file",
    "flink run": "needs a cluster; tests/jobs/test_joiner_restarts.py submits the job to one",
    "curl -s http://127.0.0.1:8500": "tests/docs/test_serving_protocol.py sends it to a server",
    "python examples/producers": "tests/examples/test_producers.py runs it with topics of its own",
    ". .venv/bin/activate": "tests run in the environment",
    "python -m examples.films": "tests/examples/test_films.py runs it against a fake server",
    "npm ci --prefix examples/producers": "tests/examples/test_producers.py runs it in a copy",
    "node examples/producers": "tests/examples/test_producers.py runs it with topics of its own",
    "rillet topics --config examples/producers": "as for the other example",
    "rillet join --config examples/films": "`rillet up` runs it",
    "rillet train --config examples/films": "`rillet up` runs it",
    "rillet serve --config examples/films": "`rillet up` runs it",
    "rillet dump --to s3:": "needs a bucket; tests/jobs/test_dump_service.py dumps to a folder",
    "rillet train --batch-from s3:": "needs a bucket; the same from a folder is run",
    "rillet backfill": "tests/jobs/test_joiner_job.py joins a range of a recording again",
    "rillet join --recording var/recordings/films": "as with the README's recording",
    "rillet train --batch-from var/films/examples": "as with the README's files",
    "rillet backtest var/recordings/": "recordings of the reader's own, of other specs",
    "rillet spec diff": "tests/jobs/test_spec_cli.py runs it on files of its own",
    "rillet check-config --sample": "tests/sources/test_docs.py runs the page's examples",
    "rillet check-config --from-topic": "tests/sources/test_docs.py runs the page's examples",
    "rillet reset": "tests/devstack/test_reset.py deletes what it says, with a broker and without",
}
#: run with --config, which does not change what they are
WITHOUT_CONFIG = ("rillet check-config", "rillet up", "rillet up --broker-only", "rillet down")


def _command(step: str) -> str:
    """The step as the document has it."""
    return step.removesuffix(" &").removesuffix(" ^C")


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_is_run_or_has_a_reason(command: str) -> None:
    reasons = [reason for start, reason in NOT_RUN.items() if command.startswith(start)]
    run = {*map(_command, (step for _, step in STEPS)), *WITHOUT_CONFIG, *commands(WALKED)}
    assert command in run or reasons, (
        f"{ALL_COMMANDS[command].relative_to(ROOT)}: add this command to what is run, or say in NOT_RUN why it is not"
    )


@pytest.mark.parametrize(("page", "step"), STEPS)
def test_what_is_run_is_in_the_documents(page: str, step: str) -> None:
    assert _command(step) in commands(ROOT / page)


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("rillet ")])
def test_every_rillet_command_is_one_of_the_cli(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    # parses and checks the arguments, runs nothing; paths that have to exist are replaced
    existing = {"var/recordings": ROOT, ".jsonl": ROOT / "README.md"}
    arguments = [next((str(path) for part, path in existing.items() if part in one), one) for one in arguments]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, arguments)
    if "--config" in arguments:
        assert (ROOT / arguments[arguments.index("--config") + 1]).is_file()


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("make ")])
def test_every_make_target_exists(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("flink ")])
def test_every_flink_command_submits_the_joiner_with_options_that_it_takes(line: str) -> None:
    arguments = shlex.split(line)
    assert arguments[:2] == ["flink", "run"]
    script = arguments.index("-py") + 1
    source = (ROOT / arguments[script]).read_text("utf-8")
    known = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source))
    given = {argument for argument in arguments[script + 1 :] if argument.startswith("--")}
    assert "--config" in given <= known


@pytest.mark.parametrize("line", [line for line in ALL_COMMANDS if line.startswith("docker ")])
def test_every_docker_command_builds_and_starts_the_compose_file(line: str) -> None:
    assert shlex.split(line) == ["docker", "compose", "up", "--build"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    # the ports that the README promises
    published = {str(port).split(":")[-2] for service in services.values() for port in service.get("ports", [])}
    assert {"8500", "8081", "9090", "9094"} <= published


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            page = path.parent / target if target else path
            assert page.exists(), target
            if anchor:
                assert anchor in _anchors(page), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("path", "block"),
    [(path, block) for path in DOCUMENTS for block in blocks(path, "toml")],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_every_piece_of_toml_is_of_a_configuration_or_a_feature_spec(path: Path, block: str) -> None:
    tables = tomllib.loads(block)
    if tables.keys() & {"spec", "context", "item", "dense", "cross", "tasks"} and not isinstance(
        tables.get("spec"), str
    ):
        with suppress(SpecError):
            parse_spec(block)
            return
        # A part of a spec: nothing is wrong but that it has no name.
        with pytest.raises(SpecError, match=r"^spec\.name: expected str, found nothing$"):
            parse_spec(block)
    else:
        parse_config({"spec": "any.spec.toml", **tables})


@pytest.mark.parametrize(
    ("path", "block"),
    [(path, block) for path in DOCUMENTS for block in blocks(path, "python")],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_every_piece_of_python_compiles_and_finds_what_it_imports(path: Path, block: str) -> None:
    compile(block, str(path), "exec")
    for line in re.findall(r"^(?:from .* )?import .*$", block, re.M):
        exec(line, {})  # noqa: S102  our own


@dataclass(frozen=True)
class Project:
    """A folder with the examples in it, whose services have topics and ports of their own."""

    folder: Path
    servers: str

    def run(self, command: str) -> str:
        """Runs a command as the reader would; what it prints.

        A service is stopped once it is ready, and has to end well; what goes on for ever is interrupted.
        """
        about_ours = re.sub(r"--request \w+", "--request films-00000007", _command(command))
        environment = {
            **os.environ,
            BOOTSTRAP_VARIABLE: self.servers,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        process = subprocess.Popen(
            # "exec", so that a signal reaches the service and not the shell
            ["bash", "-c", f"exec {about_ours}"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            if command.endswith(" &"):
                self._wait_ready(shlex.split(command)[1], process)
                process.send_signal(signal.SIGTERM)
            elif command.endswith(" ^C"):
                # Until it shows something, and perhaps more.
                select.select([process.stdout], [], [], _LOOK_S)
                time.sleep(1)
                assert process.poll() is None, f"{command}: ended by itself"
                process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        good = (0, _INTERRUPTED) if command.endswith(" ^C") else (0,)
        assert process.returncode in good, f"{command}: exit status {process.returncode}\n{output}"
        assert "Traceback" not in output
        return output

    def _wait_ready(self, name: str, process: subprocess.Popen[str]) -> None:
        url = ready_url(load_config(self.folder / CONFIG, environment={}), name)
        assert url is not None
        deadline = time.monotonic() + 120
        while probe(url) != 200 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)


@pytest.fixture
def project(tmp_path: Path, broker: str) -> Iterator[Callable[[str], Project]]:
    """``project("name")`` makes one, with a recording of films in it; what still runs in it at the end is stopped."""
    made: list[Project] = []

    def make(name: str) -> Project:
        folder = tmp_path / name
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("node_modules"))
        config = load_config(folder / CONFIG, environment={})
        topics = {key: f"{topic}.{tmp_path.name}.{name}" for key, topic in asdict(config.kafka.topics).items()}
        config = replace(
            config,
            kafka=replace(config.kafka, topics=TopicNames(**topics)),
            serving=replace(config.serving, port=free_port()),
            health=replace(config.health, join_port=free_port(), train_port=free_port()),
        )
        for path in (CONFIG, Path("rillet.toml")):
            (folder / path).write_text(dump_config(config), "utf-8")
        made.append(Project(folder, broker))
        return made[-1]

    yield make
    for one in made:
        one.run(f"rillet down --config {CONFIG}")


def _record(folder: Path, requests: int) -> None:
    """What users of the example did, with the histories that its application would send."""
    spec = load_config(folder.parents[2] / CONFIG, environment={}).load_spec()
    filler = HistoryFiller(films_spec(), spec)
    with RecordingWriter(folder, spec, "films") as writer:
        # over an hour and more, so that label windows end within it
        for event, _ in film_events(requests, config=FilmsConfig(requests_per_s=0.05)):
            writer.write(filler.take(event))


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_commands_of_the_loop_work_in_their_order(project: Callable[[str], Project]) -> None:
    ours = project("loop")
    said = {}
    for page, command in LOOP:
        if not (ROOT / page).exists():
            continue
        if command.startswith("rillet up"):
            # What users did meanwhile.
            config = load_config(ours.folder / CONFIG, environment={})
            _record(ours.folder / "var/recordings/films", 300)
            topics, recording = config.kafka.topics, Recording(ours.folder / "var/recordings/films")
            replay(recording, ours.servers, features=topics.features, actions=topics.actions)
        said[" ".join(command.split()[1:3])] = ours.run(command)
    assert "good" in said["check-config --config"]
    assert said["up --config"].count("ready") == 3
    assert "all there, once, right" in said["audit --config"]
    assert "300 requests" in said["record var/recordings/monday"]
    assert "sent 300 features" in said["replay var/recordings/monday"]
    assert "model.dim=16" in said["backtest var/recordings/monday"]


@pytest.mark.integration
def test_the_commands_of_a_batch_stage_work_in_their_order(project: Callable[[str], Project]) -> None:
    ours = project("files")
    _record(ours.folder / "var/recordings/monday", 300)
    for _, command in FROM_FILES:
        ours.run(command)
    assert list((ours.folder / "var/films-files").glob("hour=*/*.parquet"))
