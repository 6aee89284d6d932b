"""Certificates of an authority of its own, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class CertificateAuthority:
    """Makes certificates for 127.0.0.1 in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, folder / f"{name}.key"
        self.certificate = folder / f"{name}.pem"
        subject = ("-subj", f"/CN={name}", "-days", "2")
        _openssl("req", "-x509", *_fresh(self._key), *subject, "-out", self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate and its key."""
        certificate, key, request, names = (
            self._folder / f"{name}.{ending}" for ending in ("pem", "key", "csr", "ext")
        )
        names.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl("req", *_fresh(key), "-subj", f"/CN={name}", "-out", request)
        by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", names)
        _openssl("x509", "-req", "-in", request, *by, "-days", "2", "-out", certificate)
        return certificate, key


def _fresh(key: Path) -> tuple[str | Path, ...]:
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
