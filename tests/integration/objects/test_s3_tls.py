"""A store behind TLS that asks for a client certificate, by certificates of an own authority."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.store import S3Store
from runwire_store.store import StoreAway, StoreRefused

KEY = "blobs/00/" + "0" * 64


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


class Authority:
    """Makes certificates in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.cert, self._key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}", "-days", "2")
        openssl("req", "-x509", *self._new_key(self._key), *subject, "-out", self.cert)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return a certificate for 127.0.0.1 and its key."""
        cert, key, asked = (self.folder / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        extra = self.folder / f"{name}.ext"
        extra.write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", *self._new_key(key), "-subj", f"/CN={name}", "-out", asked)
        by = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-extfile", extra)
        openssl("x509", "-req", "-in", asked, *by, "-days", "2", "-out", cert)
        return cert, key

    def _new_key(self, key: Path) -> tuple[str | Path, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key


class TlsDoor:
    """Ends TLS before a server, for clients whose certificate an authority has issued."""

    def __init__(self, target: str, own: tuple[Path, Path], clients: Path) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*own)
        self._context.load_verify_locations(clients)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            inner = self._context.wrap_socket(client, server_side=True)
            with inner, socket.create_connection(self._target) as server:
                back = threading.Thread(target=self._pump, args=(server, inner), daemon=True)
                back.start()
                self._pump(inner, server)
                back.join()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def behind_tls(bucket: S3Settings, authority: Authority) -> Iterator[S3Settings]:
    """The bucket by https, without a client certificate yet."""
    door = TlsDoor(bucket.address, authority.issue("server"), authority.cert)
    with closing(door):
        yield replace(bucket, endpoint=door.url, ssl_ca_location=str(authority.cert))


def with_client(settings: S3Settings, files: tuple[Path, Path]) -> S3Settings:
    cert, key = map(str, files)
    return replace(settings, ssl_certificate_location=cert, ssl_key_location=key)


def test_store_that_asks_for_a_client_certificate_is_used_with_one(
    behind_tls: S3Settings, authority: Authority, tmp_path: Path
) -> None:
    """Small objects and parts go over it, with the key in a file of its own or in the same."""
    cert, key = authority.issue("client")
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    one_file = replace(behind_tls, ssl_certificate_location=str(both))
    for number, settings in enumerate((with_client(behind_tls, (cert, key)), one_file)):
        with closing(S3Store(settings)) as store:
            store.check()
            store.put(KEY, b"%d" % number)
            assert store.get(KEY) == b"%d" % number


def test_store_refuses_without_or_with_a_foreign_client_certificate(
    behind_tls: S3Settings, tmp_path: Path
) -> None:
    """The sentence is about the connection and not about the login."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other").issue("stranger")
    for settings in (behind_tls, with_client(behind_tls, other)):
        with (
            closing(S3Store(settings)) as store,
            pytest.raises((StoreRefused, StoreAway), match=r"SSL_CERTIFICATE|does not answer"),
        ):
            store.check()


def test_unknown_authority_is_refused_with_the_variable_that_names_it(
    behind_tls: S3Settings, tmp_path: Path
) -> None:
    """A store with another certificate never gets a request."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    with (
        closing(S3Store(replace(behind_tls, ssl_ca_location=str(other.cert)))) as store,
        pytest.raises(StoreRefused, match="RUNWIRE_S3_SSL_CA_LOCATION"),
    ):
        store.check()


def test_renewed_client_certificate_is_used_without_a_new_store(
    behind_tls: S3Settings, authority: Authority, tmp_path: Path
) -> None:
    """The files are replaced under their names, as a certificate manager does."""
    (tmp_path / "other").mkdir()
    cert, key = Authority(tmp_path / "other", "other").issue("client")
    with closing(S3Store(with_client(behind_tls, (cert, key)))) as store:
        with pytest.raises((StoreRefused, StoreAway)):
            store.check()
        for ours, renewed in zip((cert, key), authority.issue("renewed"), strict=True):
            renewed.replace(ours)
        store.check()
