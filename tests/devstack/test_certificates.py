from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from rillet.devstack.certificates import Certificates, make_certificates
from rillet.jobs.errors import ToolchainError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_the_certificate_is_for_this_machine_and_trusted_by_who_trusts_the_authority(made: Certificates) -> None:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(made.authority))
    server.load_cert_chain(made.broker)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    subject = asking.getpeercert()
    assert subject is not None
    assert ("IP Address", "127.0.0.1") in subject["subjectAltName"]
    assert made.broker.stat().st_mode & 0o077 == 0


def test_what_was_made_is_kept(made: Certificates) -> None:
    before = made.authority.read_bytes()
    assert make_certificates(made.folder).authority.read_bytes() == before


def test_a_missing_openssl_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="no openssl on PATH"):
        make_certificates(tmp_path / "made")
