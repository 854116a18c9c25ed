"""TLS between device and server, with certificates made here: the same bits, the same counts, and clear refusals."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, same, snapshot, trained_unsplit
from serving import Serving
from sockets import Proxy, raw_call

import spliteasy as se
from spliteasy.errors import ProtocolError, ServerError
from spliteasy.server.encryption import Encryption

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked"),
]

ADAM = {"name": "Adam", "lr": 0.01}


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate that is its own authority, and of its key."""

    file: Path
    key: Path

    @property
    def options(self) -> list[str | Path]:
        return ["--certificate", self.file, "--key", self.key]


def certificate(folder: Path, name: str = "IP:127.0.0.1", password: str | None = None) -> Certificate:
    """A new one for ``name``."""
    folder.mkdir()
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2",
               "-subj", "/CN=spliteasy test", "-addext", f"subjectAltName={name}",
               "-out", made.file, "-keyout", made.key]  # fmt: skip
    command += ["-nodes"] if password is None else ["-passout", f"pass:{password}"]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("own") / "files")


@pytest.fixture(scope="module")
def encrypted(own: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving("--port", "0", *own.options, folder=tmp_path_factory.mktemp("encrypted")) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving("--port", "0", folder=tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture
def trusted(own: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device trusts the certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(own.file))


def tunnel(server: Serving) -> Proxy:
    """Carries what goes to a server and back, whatever it is."""
    return Proxy(server.url.replace("https", "http"))


def https(proxy: Proxy) -> str:
    return proxy.url.replace("http", "https")


@pytest.mark.parametrize(
    ("at", "protocol"), [(SINGLE, "two-call"), (DOUBLE, "two-call"), (DOUBLE, "four-call")], ids=str
)
def test_training_over_tls_equals_the_unsplit_network(
    encrypted: Serving, trusted: None, at: tuple[str, ...], protocol: str
) -> None:
    steps = batches(4)
    assert encrypted.url.startswith("https://127.0.0.1:")
    with se.Trainer(digits_split(at), encrypted.url, optimizer=ADAM, protocol=protocol) as trainer:
        for x, y in steps:
            trainer.step(x, y)
        trainer.evaluate([batch(9)])
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())


@pytest.mark.parametrize("pipeline", [1, 3], ids=["", "pipelined"])
def test_a_large_message_passes_and_is_counted_as_without_tls(
    encrypted: Serving, plain: Serving, trusted: None, pipeline: int
) -> None:
    x, y = torch.randn(2048, 1, 8, 8), torch.arange(2048) % 10
    counted, states = [], []
    for server in (encrypted, plain):
        with se.Trainer(digits_split(), server.url, pipeline=pipeline) as trainer:
            records = [trainer.step(x, y), trainer.step(*batch())]
        counted.append([record.bytes for record in records])
        states.append(snapshot(trainer.split.model))
    assert counted[0] == counted[1] and same(*states)
    assert all(volume.http > 4 << 20 for volume in counted[0][0].values())


def test_what_goes_over_the_wire_cannot_be_read(encrypted: Serving, trusted: None) -> None:
    with tunnel(encrypted) as proxy, se.Trainer(digits_split(), https(proxy)) as trainer:
        trainer.step(*batch())
        token = trainer._transport._caller.headers["Authorization"].encode()  # type: ignore[union-attr]
    assert len(proxy.up) > 10_000
    for found in (token.removeprefix(b"Bearer "), b"/v1/sessions", b"HTTP/1.1", b"safetensors"):
        assert found not in proxy.up and found not in proxy.down


def test_an_authority_that_is_not_known_is_refused_at_once(encrypted: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with tunnel(encrypted) as proxy:
        with pytest.raises(ServerError, match="SSL_CERT_FILE=FILE") as refused:
            se.Trainer(digits_split(), https(proxy), retry=60)
        assert type(refused.value) is ServerError and proxy.connections == 1  # it was not tried again


def test_a_certificate_that_changes_in_mid_training_is_refused_at_once(
    encrypted: Serving, own: Certificate, trusted: None, tmp_path: Path
) -> None:
    """As when something else takes the server's address."""
    trainer = se.Trainer(digits_split(), encrypted.url, retry=60)
    trainer.step(*batch())
    options = certificate(tmp_path / "other").options
    with Serving("--port", "0", *options, folder=tmp_path) as other, tunnel(other) as proxy:
        connection = trainer._transport._caller.connection  # type: ignore[union-attr]
        connection.close()
        right, connection._address = connection._address, ("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        with pytest.raises(ServerError, match="SSL_CERT_FILE"):
            trainer.step(*batch(1))
        assert proxy.connections == 1
    connection._address = right
    trainer.step(*batch(1))
    trainer.close()


def test_a_certificate_of_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = certificate(tmp_path / "elsewhere", "DNS:elsewhere.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(elsewhere.file))
    refused = pytest.raises(ServerError, match=r"certificate for 127\.0\.0\.1.*not valid for '127\.0\.0\.1'")
    with Serving("--port", "0", *elsewhere.options, folder=tmp_path) as server, refused:
        se.Trainer(digits_split(), server.url, retry=60)


def test_tls_where_there_is_none(plain: Serving) -> None:
    with tunnel(plain) as proxy:
        with pytest.raises(ProtocolError, match=r"speaks TLS.*http://.*--certificate"):
            se.Trainer(digits_split(), https(proxy), retry=60)
        assert proxy.connections == 1


def test_no_tls_where_there_is_some(encrypted: Serving, own: Certificate) -> None:
    with tunnel(encrypted) as proxy:
        with pytest.raises(ProtocolError, match="https://"):
            se.Trainer(digits_split(), proxy.url, retry=60)
        assert proxy.connections == 2  # what answers strangely is asked twice
    for request in (b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort"):
        head, _, body = raw_call(encrypted.url.replace("https", "http"), request).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head and b"https://" in body
    for nothing in (b"\x16\x03\x01", b"\0" * 100, b"SSH-2.0-x\r\n", b""):
        raw_call(encrypted.url.replace("https", "http"), nothing)
    assert requests.get(f"{encrypted.url}/v1/health", verify=str(own.file), timeout=30).ok


@pytest.mark.parametrize(
    "said", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "half a greeting"]
)
def test_connections_that_fall_silent_hold_nobody_up(encrypted: Serving, trusted: None, said: bytes) -> None:
    silent = [socket.create_connection(("127.0.0.1", int(encrypted.port))) for _ in range(40)]
    try:
        for one in silent:
            one.sendall(said)
        with se.Trainer(digits_split(), encrypted.url, timeout=20, retry=0) as trainer:
            trainer.step(*batch())
    finally:
        for one in silent:
            one.close()


# Files


def test_no_files_no_tls() -> None:
    assert Encryption.of(None, None) is None


@pytest.mark.parametrize("option", ["--certificate", "--key"])
def test_one_file_alone_is_refused(own: Certificate, tmp_path: Path, option: str) -> None:
    with pytest.raises(AssertionError) as failed:
        Serving("--port", "0", option, own.file, folder=tmp_path)
    expected = "spliteasy serve: Expected --certificate and --key together, found one alone.\n"
    assert failed.value.args == (1, expected)


@pytest.mark.parametrize("case", ["no file", "no certificate", "a folder", "another's key", "a password"])
def test_files_that_cannot_be_used(own: Certificate, tmp_path: Path, case: str) -> None:
    """Each is named; nobody is asked for a password at the terminal."""
    given = {
        "no file": lambda: Certificate(own.file, tmp_path / "missing.pem"),
        "no certificate": lambda: Certificate(own.key, own.key),
        "a folder": lambda: Certificate(tmp_path, own.key),
        "another's key": lambda: Certificate(own.file, certificate(tmp_path / "other").key),
        "a password": lambda: certificate(tmp_path / "locked", password="secret"),
    }[case]()
    with pytest.raises(ServerError, match="private key in PEM format, without a password") as refused:
        Encryption.of(given.file, given.key)
    assert str(given.file) in str(refused.value) and str(given.key) in str(refused.value)
