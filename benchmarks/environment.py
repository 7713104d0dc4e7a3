"""The peers' environment: libraries that rillet does not depend on, in a folder of their own."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from rillet.backtest.errors import BacktestError

#: what each peer is on the package index, in the versions that were measured
PACKAGES = {"vw": "vowpalwabbit==9.11.9", "river": "river==0.26.1", "quix": "quixstreams==3.28.1"}
#: of what carries rows to them
_NUMPY = "numpy>=1.26,<3"
_INSTALL_S = 900
_VERSIONS = (
    "import json, sys; from importlib.metadata import version; print(json.dumps([version(n) for n in sys.argv[1:]]))"
)


def peer_environment(folder: Path, libraries: Sequence[str]) -> Path:
    """The interpreter of an environment that has the libraries; what is missing is installed.

    :param folder: of the environment, made where it is missing.
    :raises BacktestError: they cannot be installed.
    """
    # Absolute, since a peer's process has a working directory of its own; not resolved, since it is a link.
    python = folder.absolute() / "bin" / "python"
    wanted = [PACKAGES[library] for library in libraries]
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        if any(not _is_installed(python, package) for package in wanted):
            _run([str(python), "-m", "pip", "install", "--quiet", _NUMPY, *wanted])
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise BacktestError(f"{folder}: {', '.join(wanted)} cannot be installed: {said.strip()[-400:]}") from error
    return python


def library_versions(python: Path, libraries: Sequence[str]) -> dict[str, str]:
    """What is installed in the environment of an interpreter, by library."""
    names = [PACKAGES[library].partition("==")[0] for library in libraries]
    return dict(zip(libraries, json.loads(_run([str(python), "-c", _VERSIONS, *names])), strict=True))


def _is_installed(python: Path, package: str) -> bool:
    name, _, version = package.partition("==")
    try:
        return bool(json.loads(_run([str(python), "-c", _VERSIONS, name])) == [version])
    except subprocess.CalledProcessError:
        return False


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S).stdout  # noqa: S603
