"""The arrows between packages, and what pure packages may touch, read from every import and name in the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "tables", "joiner", "trainer", "sync", "serving", "jobs")

#: package -> the packages of ours that it may import
ARROWS: dict[str, set[str]] = {
    "schemas": set(),
    "tables": {"schemas"},
    "joiner": {"schemas"},
    "trainer": {"schemas", "tables"},
    "sync": {"schemas", "tables"},
    "serving": {"schemas", "tables", "sync"},
    "jobs": {"schemas", "tables", "joiner", "trainer", "sync", "serving"},
}

#: package -> the libraries that it may import beside the standard library; jobs may import any
LIBRARIES: dict[str, set[str]] = {
    "schemas": {"numpy", "fastavro"},
    "tables": {"numpy", "numba", "llvmlite"},  # llvmlite: the compiler below numba, pinned by it
    "joiner": {"numpy", "rocksdict"},
    "trainer": {"numpy", "torch", "safetensors", "fsspec"},
    "sync": {"numpy", "fsspec", "google_crc32c", "safetensors"},
    "serving": {"numpy", "torch", "starlette", "uvicorn", "orjson", "prometheus_client"},
}

#: where time is an argument and the same input gives the same output
PURE = ("schemas", "tables", "joiner", "trainer", "sync")

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


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules"
    return found


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.lineno, str(node.module)


def used_names(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call | None]]:
    """Line, full dotted name, and the call if it is one, of everything used that was imported."""
    aliases: dict[str, str] = {}
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
            yield node.lineno, ".".join([aliases[inner.id], *reversed(parts)]), calls.get(id(node))


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
        for line, name in touches(ast.parse(path.read_text("utf-8")), banned)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    allowed = ARROWS[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {package} may not import {name}"
        for path in sources(package)
        for line, name in imported(ast.parse(path.read_text("utf-8")))
        if name.partition(".")[0] in PACKAGES and name.partition(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_a_package_depends_only_on_its_own_libraries(package: str) -> None:
    allowed = LIBRARIES[package] | set(PACKAGES) | set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {package} may not import {name}"
        for path in sources(package)
        for line, name in imported(ast.parse(path.read_text("utf-8")))
        if name.partition(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PURE)
@pytest.mark.parametrize("banned", [CLOCKS, RANDOMNESS, NETWORK], ids=["clocks", "randomness", "network"])
def test_pure_packages_take_time_and_chance_as_arguments(package: str, banned: tuple[str, ...]) -> None:
    assert not violations(package, banned)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "jobs"])
def test_only_jobs_reads_the_environment(package: str) -> None:
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
