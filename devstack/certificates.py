"""Certificates for a broker of this machine: an authority of its own and one certificate for 127.0.0.1.

For demos and tests: the keys lie unencrypted beside the broker's data. Made with the ``openssl`` command.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rillet.jobs.errors import ToolchainError

_DAYS = "3650"
_NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where they lie."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What a client has to trust, PEM."""
        return self.folder / "ca.pem"

    @property
    def broker(self) -> Path:
        """The broker's key (PKCS#8) and certificate in one file, PEM."""
        return self.folder / "broker.pem"


def make_certificates(folder: Path) -> Certificates:
    """Makes what is not there yet.

    :raises ToolchainError: there is no ``openssl`` command, or it failed.
    """
    made = Certificates(folder)
    if made.broker.is_file():
        return made
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, key, certificate = folder / "ca.key", folder / "broker.key", folder / "broker.crt"
    # Keys of an elliptic curve are made at once, those of RSA in up to seconds.
    key_type = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    new = ["req", "-x509", *key_type, "-nodes", "-days", _DAYS]
    usage = "basicConstraints=critical,CA:TRUE"
    _openssl(*new, "-subj", "/CN=rillet local authority", "-addext", usage, "-keyout", ca_key, "-out", made.authority)
    signed: list[str | Path] = [
        "-CA",
        made.authority,
        "-CAkey",
        ca_key,
        "-addext",
        "basicConstraints=CA:FALSE",
        "-addext",
        _NAMES,
    ]
    _openssl(*new, *signed, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate)
    made.broker.write_bytes(key.read_bytes() + certificate.read_bytes())
    made.broker.chmod(0o600)
    return made


def _openssl(*arguments: str | Path) -> None:
    command = shutil.which("openssl")
    if command is None:
        raise ToolchainError("no openssl on PATH: install it (Debian: apt-get install openssl), it makes certificates")
    done = subprocess.run(  # noqa: S603
        [command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ToolchainError(f"openssl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
