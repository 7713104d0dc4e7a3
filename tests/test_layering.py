"""The arrows between packages, and what pure packages may touch, read from every import and name in the source."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: room -> the rooms that it may import; ``rillet`` is the root itself, the command line above them all
ARROWS: dict[str, set[str]] = {
    "schemas": set(),
    "embeddings": {"schemas"},
    "joiner": {"schemas"},
    "trainer": {"schemas", "embeddings"},
    "sync": {"schemas", "embeddings"},
    "serving": {"schemas", "embeddings", "sync"},
    "sources": {"schemas"},
    "connectors": {"schemas", "trainer", "sync", "serving", "sources"},
    "pipelines": {"schemas", "embeddings", "joiner", "trainer", "sync", "connectors"},
    "operators": {"schemas", "joiner", "sources", "connectors"},
    "jobs": {
        "schemas",
        "embeddings",
        "joiner",
        "trainer",
        "sync",
        "serving",
        "sources",
        "connectors",
        "pipelines",
        "operators",
    },
    "inspection": {"schemas", "joiner", "sync", "sources", "connectors", "operators", "jobs", "devstack", "audit"},
    "devstack": {"schemas", "sync", "connectors", "jobs"},
    "recordings": {"schemas", "joiner", "trainer", "sources", "connectors", "jobs"},
    "audit": {"schemas", "sources", "connectors"},
}
ARROWS["backtest"] = set(ARROWS) - {"devstack"}
ARROWS["demo"] = set(ARROWS)
ARROWS["benchmarks"] = set(ARROWS)
ROOMS = tuple(ARROWS)
ARROWS["rillet"] = set(ARROWS)

#: inside jobs/: module -> the modules of jobs that it may import. A service does not import another.
JOBS: dict[str, set[str]] = {
    "errors": set(),
    "log_format": set(),
    "options": {"config", "log_format"},
    "config": {"errors"},
    "config_checks": {"config", "errors"},
    "services": {"config"},
    "start_checks": {"config", "errors"},
    "health": {"errors"},
    "toolchain": {"errors"},
    "processes": set(),
    "data_lock": {"errors", "processes"},
    "signals": set(),
    "spec_cli": set(),
    "joiner_job": {"config"},
    "joiner_run": {"config", "data_lock", "errors", "health", "joiner_job", "signals", "toolchain"},
    "join": {"config", "data_lock", "joiner_run", "signals"},
    "backfill": {"config", "data_lock", "joiner_run", "signals"},
    "train": {"config", "data_lock", "health", "signals"},
    "serve": {"config", "signals"},
    "dump": {"config", "data_lock", "health", "signals"},
}
JOBS["cli"] = set(JOBS) - {"joiner_job", "joiner_run"}

#: room -> the libraries that it may import beside the standard library; the rooms not named here may import any
LIBRARIES: dict[str, set[str]] = {
    "schemas": {"numpy", "fastavro"},
    "embeddings": {"numpy", "numba", "llvmlite"},  # llvmlite: the compiler below numba, pinned by it
    "joiner": {"numpy", "rocksdict"},
    "sources": {"numpy", "fastavro"},
    "trainer": {"numpy", "torch", "safetensors", "fsspec"},
    "sync": {"numpy", "fsspec", "google_crc32c", "safetensors"},
    "serving": {"numpy", "torch", "starlette", "uvicorn", "orjson", "prometheus_client", "httpx2", "httpcore2"},
    "connectors": {"confluent_kafka", "fastavro", "numpy", "pyarrow", "prometheus_client", "tensorboardX"},
    "audit": {"numpy"},
    "inspection": {"click", "confluent_kafka", "numpy", "prometheus_client", "rich"},
}

#: where time is an argument and the same input gives the same output
PURE = ("schemas", "embeddings", "joiner", "trainer", "sync", "sources")

CLOCKS = (
    "time.",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
)
RANDOMNESS = ("random.", "secrets.", "uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom", "torch.seed")
#: NumPy's generators take a seed; its module-level functions share a hidden one
SEEDED = ("numpy.random.Generator", "numpy.random.PCG64", "numpy.random.Philox", "numpy.random.SeedSequence")
ENVIRONMENT = ("os.environ", "os.getenv", "os.putenv")
NETWORK = (
    "socket.",
    "ssl.",
    "http.",
    "urllib.request",
    "urllib.error",
    "asyncio.open_connection",
    "ftplib.",
    "smtplib.",
)


BARE_IMPORT = re.compile(rf"^\s*(?:from\s+\.|(?:from|import)\s.*?\b(?<!\.)(?:{'|'.join(ROOMS)})\b)", re.MULTILINE)
IMPORT_OF_A_TEST = re.compile(r"^\s*(?:from|import)\s+tests\..*\btest_", re.MULTILINE)


def sources(room: str) -> list[Path]:
    folder = ROOT / ("src/rillet" if room == "rillet" else room)
    found = sorted(path for path in folder.glob("*.py" if room == "rillet" else "**/*.py"))
    assert found, f"{room} has no modules"
    return found


def sources_like(room: str, pattern: re.Pattern[str]) -> list[Path]:
    """The sources of a room that may have what is looked for: parsing all tests takes seconds."""
    return [path for path in sources(room) if pattern.search(path.read_text("utf-8"))]


def room_of(module: str) -> str | None:
    """The room of a module of ours, None for a library's."""
    root, _, rest = module.partition(".")
    if root != "rillet":
        return None
    return rest.partition(".")[0] or "rillet"


@cache
def parsed(path: Path) -> ast.Module:
    """A source as a tree; many rules are held against the same few hundred sources."""
    return ast.parse(path.read_text("utf-8"))


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    # A peer's process has no rillet: its modules find each other beside themselves.
    of_peer = path.parent == ROOT / "benchmarks" / "peers"
    return list(imported(parsed(path), package="rillet.benchmarks.peers" if of_peer else None))


def imported(tree: ast.AST, package: str | None = None) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import; relative ones only where the package is named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or package, f"line {node.lineno}: imports are absolute"
            yield node.lineno, f"{package}.{node.module}" if node.level else str(node.module)


@cache
def used_names(tree: ast.AST) -> list[tuple[int, str, ast.Call | None]]:
    """Line, full dotted name, and the call if it is one, of everything used that was imported."""
    aliases: dict[str, str] = {}
    used = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in aliases:
            used.append((node.lineno, ".".join([aliases[inner.id], *reversed(parts)]), calls.get(id(node))))
    return used


def touches(tree: ast.AST, banned: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Uses of what is banned: a name, what lies below it, or anything of a module named with a dot at its end."""
    for line, name, call in used_names(tree):
        if any(
            (name == ban.rstrip(".") and not ban.endswith(".")) or name.startswith(ban.rstrip(".") + ".")
            for ban in banned
        ):
            yield line, name
        if banned is RANDOMNESS and name.startswith("numpy.random."):
            if name == "numpy.random.default_rng":
                if call is not None and not call.args and not call.keywords:
                    yield line, f"{name}() without a seed"
            elif not name.startswith(SEEDED):
                yield line, name


def violations(package: str, banned: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for line, name in touches(parsed(path), banned)
    ]


@pytest.mark.parametrize("room", ARROWS)
def test_imports_follow_the_arrows(room: str) -> None:
    allowed = ARROWS[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room} may not import {name}"
        for path in sources(room)
        for line, name in imports_of(path)
        if (of := room_of(name)) is not None and of not in allowed and name != "rillet"
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_of_jobs_knows_only_the_ones_below_it() -> None:
    found = {path.stem for path in sources("jobs")} - {"__init__"}
    assert found == set(JOBS), "a module was added or removed: say which of jobs it may import"
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: jobs.{path.stem} may not import {name}"
        for path in sources("jobs")
        if path.stem in JOBS
        for line, name in imports_of(path)
        if name.startswith("rillet.jobs.") and name.split(".")[2] not in JOBS[path.stem]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_outgrows_the_others() -> None:
    lines = {room: sum(len(path.read_text("utf-8").splitlines()) for path in sources(room)) for room in ARROWS}
    assert max(lines.values()) <= sum(lines.values()) / 4, lines
    assert lines["jobs"] < 2500, (
        "jobs holds services and what they share; look whether a room of its own has grown in it"
    )


@pytest.mark.parametrize("room", [*ARROWS, "tests", "examples"])
def test_nothing_of_ours_is_imported_under_a_bare_name(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} instead of rillet.{name}"
        for path in sources_like(room, BARE_IMPORT)
        for line, name in imports_of(path)
        if name.partition(".")[0] in ROOMS
    ]
    assert not wrong, "\n".join(wrong)


def test_no_test_imports_another() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources_like("tests", IMPORT_OF_A_TEST)
        for line, name in imports_of(path)
        if name.startswith("tests.") and name.rpartition(".")[2].startswith("test_")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", sorted(LIBRARIES))
def test_a_room_depends_only_on_its_own_libraries(room: str) -> None:
    allowed = LIBRARIES[room] | {"rillet"} | set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room} may not import {name}"
        for path in sources(room)
        for line, name in imports_of(path)
        if name.partition(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_the_client_and_the_server_share_no_library_of_the_network() -> None:
    """What is installed with ``rillet[client]`` is enough for the client, and the server does not need it."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources("serving")
        for line, name in imports_of(path)
        if name.partition(".")[0]
        in ({"torch", "starlette", "uvicorn"} if path.parent.name == "client" else {"httpx2", "httpcore2"})
        or (name.startswith("rillet.serving.client") and path.parent.name != "client")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PURE)
@pytest.mark.parametrize("banned", [CLOCKS, RANDOMNESS, NETWORK], ids=["clocks", "randomness", "network"])
def test_pure_packages_take_time_and_chance_as_arguments(package: str, banned: tuple[str, ...]) -> None:
    assert not violations(package, banned)


@pytest.mark.parametrize("package", [*PURE, "serving", "connectors", "recordings", "audit"])
def test_only_jobs_and_what_starts_processes_reads_the_environment(package: str) -> None:
    assert not violations(package, ENVIRONMENT)


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import time\nnow = time.time()", CLOCKS),
        ("from time import monotonic as m\nm()", CLOCKS),
        ("import datetime as d\nd.datetime.now()", CLOCKS),
        ("import numpy as np\nnp.random.rand(3)", RANDOMNESS),
        ("import numpy as np\nnp.random.default_rng()", RANDOMNESS),
        ("import random\nrandom.random()", RANDOMNESS),
        ("from os import environ\nenviron['A']", ENVIRONMENT),
        ("import os\nos.environ.get('A')", ENVIRONMENT),
        ("from urllib import request\nrequest.urlopen('a')", NETWORK),
        ("import socket\nsocket.socket()", NETWORK),
    ],
)
def test_the_reader_of_names_sees_through_aliases(code: str, banned: tuple[str, ...]) -> None:
    assert list(touches(ast.parse(code), banned))


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.random.default_rng(3)",
        "import numpy as np\nnp.random.Generator(np.random.PCG64(1))",
        "timeout = 3\nclass A:\n    time = 1\nA().time",
    ],
)
def test_seeded_generators_and_names_alike_are_no_violation(code: str) -> None:
    for banned in (CLOCKS, RANDOMNESS, NETWORK, ENVIRONMENT):
        assert not list(touches(ast.parse(code), banned))
