"""Finds the JDK and Maven, and fetches the jars of the local stack by their Maven coordinates.

Nothing is installed: what has to come from the operating system is asked for in one sentence. The
versions stand in ``pom.xml`` beside this file; the jars land in ``var/jars`` of the project, once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import rillet
from rillet.jobs.errors import ToolchainError

MIN_JAVA = 17
POM = Path(__file__).with_name("pom.xml")
_STAMP = ".complete"


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: its ``java`` command, its home and its major version."""

    command: Path
    home: Path
    version: int


@dataclass(frozen=True, slots=True)
class Jars:
    """Where the fetched jars lie."""

    folder: Path

    @property
    def broker_class_path(self) -> str:
        """Class path of a Kafka broker and its tools."""
        return str(self.folder / "broker" / "*")

    @property
    def connector(self) -> Path:
        """The Kafka connector that a Flink job or cluster needs.

        :raises ToolchainError: it is not there, or there are several.
        """
        found = sorted((self.folder / "flink").glob("flink-sql-connector-kafka-*.jar"))
        if len(found) != 1:
            raise ToolchainError(f"{self.folder / 'flink'}: expected one Kafka connector jar, found {len(found)}")
        return found[0]


def project_dir() -> Path:
    """The checkout that this code lies in, or the current folder when it was installed as a wheel."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def find_java() -> Java:
    """The Java of ``JAVA_HOME`` if that is set, else the one on ``PATH``.

    :raises ToolchainError: none there, or older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        command = Path(home) / "bin" / "java"
        if not command.is_file():
            raise ToolchainError(f"JAVA_HOME is {home}, but {command} does not exist: point it at a JDK {MIN_JAVA}")
    else:
        found = shutil.which("java")
        if found is None:
            raise ToolchainError(
                f"no java on PATH: install a JDK {MIN_JAVA} (Debian 12, Ubuntu: apt-get install openjdk-17-jdk;"
                " Debian 13: openjdk-21-jdk), or point JAVA_HOME at one"
            )
        command = Path(found).resolve()
    shown = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    match = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    if match is None:
        raise ToolchainError(f"{command} -version printed no version: point JAVA_HOME at a JDK {MIN_JAVA}")
    if (version := int(match[1])) < MIN_JAVA:
        raise ToolchainError(f"{command} is Java {version}: point JAVA_HOME at a JDK {MIN_JAVA} or newer")
    return Java(command, command.parent.parent, version)


def find_maven() -> Path:
    """The ``mvn`` command.

    :raises ToolchainError: not on ``PATH``.
    """
    found = shutil.which("mvn")
    if found is None:
        raise ToolchainError(
            "no mvn on PATH: install Maven (Debian: apt-get install maven), it fetches the Kafka broker and connector"
        )
    return Path(found)


def java_environment(java: Java) -> dict[str, str]:
    """The process environment with this Java first."""
    return {**os.environ, "JAVA_HOME": str(java.home), "PATH": f"{java.home / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def python_environment() -> dict[str, str]:
    """The process environment in which Flink finds Java, this interpreter and this package.

    Flink finds its Python workers, and PEMJA its library, only in an activated environment. PEMJA does not read the
    ``.pth`` file of an editable installation, so the package's folder is named.
    """
    environment = java_environment(find_java())
    package = Path(rillet.__file__).parent.parent
    return environment | {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), environment["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), environment.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }


def fetch_jars(folder: Path | None = None) -> Jars:
    """Jars of the broker and of Flink's Kafka connector; fetched once, then found again without Maven.

    :param folder: where to; ``RILLET_JARS`` or ``var/jars`` of the project by default.
    :raises ToolchainError: Java or Maven is missing, or the download failed.
    """
    folder = folder or Path(os.environ.get("RILLET_JARS") or project_dir() / "var" / "jars")
    jars = Jars(folder.resolve())
    stamp = folder / _STAMP
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()

    def complete() -> bool:
        return stamp.is_file() and stamp.read_text() == wanted

    if complete():
        return jars
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete():  # another process fetched them meanwhile
            return jars
        stamp.unlink(missing_ok=True)
        for kind in ("broker", "flink"):  # of another version of the pom
            shutil.rmtree(folder / kind, ignore_errors=True)
        command = [str(find_maven()), "-q", "-B", "-f", str(POM), "package", f"-Djars={jars.folder}"]
        done = subprocess.run(  # noqa: S603
            command, env=java_environment(find_java()), capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")] or [done.stderr.strip()]
            raise ToolchainError(f"Maven could not fetch the Kafka jars into {folder}: {errors[0]}")
        jars.connector  # noqa: B018  refuses an incomplete copy before it is stamped
        stamp.write_text(wanted)
    return jars
