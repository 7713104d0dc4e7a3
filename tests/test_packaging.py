"""One import root: what a wheel offers, what a service loads, and a script beside folders of the same names as ours."""

from __future__ import annotations

import ast
import resource
import shutil
import subprocess
import sys
import venv
import zipfile
from functools import cache
from pathlib import Path

import pytest

from rillet.__main__ import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
#: what belongs to trying and judging the product, not to running it
NOT_IN_SERVICES = {"inspection", "devstack", "recordings", "audit", "backtest", "demo"}


@cache
def module_file(name: str) -> Path | None:
    """The source of a module of ours."""
    path = ROOT / "src" / Path(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def names_in(source: Path) -> frozenset[str]:
    """Dotted names of what a source imports, inside of functions, too, and of ours that it names in a string."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("rillet."):
            names.add(node.value)  # the packages' lazy names
    return frozenset(names)


def reachable(start: str) -> dict[str, str]:
    """Every module of ours that importing and running ``start`` can load, and which one imports it first."""
    found = {start: ""}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        source = module_file(module)
        assert source is not None, f"{module}, imported by {found[module]}, has no source"
        for name in names_in(source):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                package = ".".join(parts[:end])
                if parts[0] == "rillet" and package not in found and module_file(package):
                    found[package] = module
                    waiting.append(package)
    return found


@pytest.mark.parametrize(
    "start",
    [
        "rillet.jobs.cli",
        "rillet.jobs.join",
        "rillet.jobs.train",
        "rillet.jobs.serve",
        "rillet.jobs.dump",
        "rillet.jobs.joiner_job",
    ],
)
def test_a_service_imports_nothing_of_the_local_stack_the_recordings_the_audit_or_the_demo(start: str) -> None:
    found = reachable(start)
    assert len(found) > 10, "the walk found next to nothing: it is broken"
    wrong = {name: by for name, by in found.items() if name.split(".")[1:2] and name.split(".")[1] in NOT_IN_SERVICES}
    assert not wrong


def test_the_walk_finds_what_a_function_imports() -> None:
    assert "rillet.devstack.stack" in reachable("rillet.devstack.cli")
    assert "rillet.audit.comparison" in reachable("rillet.demo.cli")


@pytest.mark.parametrize("command", ["join", "train", "serve", "dump"])
def test_the_command_of_a_service_loads_no_other_command(command: str) -> None:
    code = (
        "import sys; from rillet.__main__ import main\n"
        f"try: main(['{command}', '--help'])\n"
        f"except SystemExit: pass\n"
        f"print([m for m in sys.modules if m.split('.')[0] == 'rillet' and m.split('.')[1:2] and m.split('.')[1] in {NOT_IN_SERVICES}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_comes_at_once() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "rillet", "--help"], capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Once of several times is enough: what shares the machine's caches slows it down.
    assert any(cpu_s() < 0.3 for _ in range(5))


def build_wheel(tree: Path, out: Path, target: str = "wheel") -> Path:
    """Builds a distribution of a tree into ``out``."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree."""
    (found,) = build_wheel(ROOT, tmp_path_factory.mktemp("wheel")).glob("rillet-*.whl")
    return found


@pytest.mark.integration
def test_an_empty_environment_with_the_wheel_offers_rillet_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    before = {entry.name for entry in site.iterdir()}
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, capture_output=True, timeout=120, check=True)
    new = {entry.name for entry in site.iterdir()} - before
    assert {name for name in new if not name.endswith(".dist-info")} == {"rillet"}
    code = (
        "import importlib.util as u; print([n for n in "
        "('schemas', 'embeddings', 'tables', 'joiner', 'trainer', 'sync', 'serving', 'connectors', 'jobs', 'devstack', "
        "'pipelines', 'inspection', 'recordings', 'audit', 'backtest', 'demo') if u.find_spec(n)])"
    )
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wheel_has_every_module_and_file_of_the_rooms(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("rillet/") for name in archive.namelist() if name.startswith("rillet/")}
    rooms = {link.name for link in (ROOT / "src" / "rillet").iterdir() if link.is_symlink()} - {"benchmarks"}
    assert len(rooms) == 17
    expected = {
        str(path.relative_to(ROOT))
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= names
    assert not [name for name in names if name.startswith("benchmarks/")]
    assert {f"recordings/specs/{path.name}" for path in (ROOT / "specs").iterdir()} <= names


def test_what_the_dockerfile_copies_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    context = tmp_path / "app"
    context.mkdir()
    stage = (ROOT / "Dockerfile").read_text("utf-8").partition("AS base")[2].partition("\nFROM ")[0]
    for line in stage.splitlines():
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                # as COPY does: a folder's content goes into the target, links stay links
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, symlinks=True)
                else:
                    shutil.copy(ROOT / source, context / target)
    (found,) = build_wheel(context, tmp_path).glob("rillet-*.whl")
    with zipfile.ZipFile(found) as ours, zipfile.ZipFile(wheel) as whole:
        assert set(ours.namelist()) == set(whole.namelist())


def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build_wheel(ROOT, tmp_path, target="sdist")
    shutil.unpack_archive(next(tmp_path.glob("rillet-*.tar.gz")), tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    (found,) = build_wheel(unpacked, tmp_path).glob("rillet-*.whl")
    with zipfile.ZipFile(found) as ours, zipfile.ZipFile(wheel) as whole:
        assert set(ours.namelist()) == set(whole.namelist())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("installed", "code"),
    [
        ((), "from rillet.__main__ import main; main(['check-config', '--config', 'rillet.toml'])"),
        ((), "import rillet.recordings.format, rillet.connectors.producers, rillet.audit.comparison"),
        (("httpx2", "orjson"), "import rillet.serving.client, examples.films.client"),
        (("torch", "numba", "safetensors"), "import rillet.trainer.online, rillet.sync.publisher"),
    ],
    ids=["base-check-config", "base-imports", "client", "trainer"],
)
def test_each_extra_is_enough_for_what_it_is_for(installed: tuple[str, ...], code: str) -> None:
    """Runs with every other extra's libraries hidden, as in an environment that does not have them."""
    hidden = sorted(set(EXTRAS) - set(installed))
    blocker = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {hidden}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocker + code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_script_beside_folders_of_our_names_uses_its_own_and_ours(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    project = tmp_path / "project"
    for name in ("jobs", "schemas", "sync", "trainer", "serving", "tables"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"MINE = {name!r}\n")
    (project / "script.py").write_text(
        "import jobs, schemas, serving, sync, tables, trainer\n"
        "from rillet.connectors.producers import EventProducer\n"
        "from rillet.schemas import ActionEvent\n"
        "from rillet.serving.client import Client\n"
        "import rillet.jobs.config\n"
        "producer = EventProducer('127.0.0.1:1', 'actions')\n"
        "producer.submit(ActionEvent('r', 1, impression_id=2, action='watch'))\n"
        "producer.close()\n"
        "with Client('http://127.0.0.1:1', 'films') as client:\n"
        "    assert not client.ready()\n"
        "print(jobs.MINE, schemas.MINE, sync.MINE, trainer.MINE, serving.MINE, tables.MINE, rillet.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *mine, where = done.stdout.split()
    assert mine == ["jobs", "schemas", "sync", "trainer", "serving", "tables"]
    assert Path(where).is_relative_to(tmp_path / "site")
