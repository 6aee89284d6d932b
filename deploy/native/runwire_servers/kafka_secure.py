"""Kafka with SASL_SSL or mutual TLS, and ACLs: every user but `admin` needs an ACL."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runwire_servers import tools
from runwire_servers.kafka import Kafka
from runwire_servers.places import Places, write_private

USERS = ("admin", "agent", "worker")
# The name in the broker's certificate, by which brokers and controllers authenticate.
BROKER = "User:CN=runwire-broker"
DAYS = "3650"
_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")


class SecureKafka(Kafka):
    """Clients use passwords over TLS, or certificates at a second listener; brokers do these."""

    def fetch(self, places: Places) -> None:
        """Find openssl, then fetch as without encryption. Raises: ServersError."""
        _openssl()
        super().fetch(places)

    def port_names(self) -> Sequence[str]:
        """Return four names per node: brokers use a separate listener among themselves."""
        roles = ("internal", "mutual")
        return [
            *super().port_names(),
            *(f"{role}-{label}" for role in roles for label in self.labels),
        ]

    def configure(self, home: Path, ports: Mapping[str, int]) -> None:
        """Create certificates and passwords once, then configure the nodes."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (home / "tls" / f"{USERS[-1]}.pem").exists():
            _make_certificates(home / "tls")
        for user in USERS:
            if not (file := _password_file(home, user)).exists():
                write_private(file, secrets.token_hex(16))
        super().configure(home, ports)

    def facts(self, home: Path) -> dict[str, Any]:
        """Return the certificate authority, and each user's password and certificate."""
        return {
            "ca": str(home / "tls" / "ca.pem"),
            "users": {
                user: {
                    "password": _password_file(home, user).read_text(),
                    "password_file": str(_password_file(home, user)),
                    "certificate": str(home / "tls" / f"{user}.pem"),
                }
                for user in USERS
            },
        }

    def format_words(self, home: Path, label: str) -> list[str]:
        """Return the arguments that also create the users, before the first broker starts."""
        words = super().format_words(home, label)
        for user in USERS:
            password = _password_file(home, user).read_text()
            words += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        return words

    def properties(self, label: str, ports: Mapping[str, int], home: Path) -> dict[str, Any]:
        """Return the configuration of one node."""
        listeners = ",".join(
            f"{name}://127.0.0.1:{ports[f'{role}-{label}']}"
            for name, role in (
                ("CLIENT", "client"), ("MUTUAL", "mutual"),
                ("INTERNAL", "internal"), ("CONTROLLER", "controller"),
            )
        )  # fmt: skip
        own = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": home / "tls" / "server.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": home / "tls" / "ca.pem",
        }
        mutual = {**own, "ssl.client.auth": "required"}
        return {
            **super().properties(label, ports, home),
            "listeners": listeners,
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "INTERNAL",
            "listener.security.protocol.map": (
                "CLIENT:SASL_SSL,MUTUAL:SSL,INTERNAL:SSL,CONTROLLER:SSL"
            ),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            **{f"listener.name.client.{key}": value for key, value in own.items()},
            **{f"listener.name.mutual.{key}": value for key, value in mutual.items()},
            # The same users as with passwords, and so the same ACLs.
            "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=([a-z]+)$/$1/,DEFAULT",
            **{f"listener.name.internal.{key}": value for key, value in mutual.items()},
            **{f"listener.name.controller.{key}": value for key, value in mutual.items()},
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:admin;{BROKER}",
            "allow.everyone.if.no.acl.found": "false",
        }


def _password_file(home: Path, user: str) -> Path:
    return home / f"{user}.password"


def _openssl() -> str:
    return tools.find_tool(
        "openssl",
        "it makes the certificates of kafka-secure (Debian, Ubuntu: sudo apt install openssl)",
    )


def _make_certificates(folder: Path) -> None:
    """Create an authority, and certificates of broker and users, each in one file with its key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "names.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _run_openssl(
        folder, "req", "-x509", *_NEW_KEY, "-days", DAYS, "-keyout", "ca.key", "-out", "ca.pem",
        "-subj", "/CN=runwire-test-ca",
    )  # fmt: skip
    _make_certificate(folder, "server", BROKER.removeprefix("User:"))
    for user in USERS:
        _make_certificate(folder, user, f"CN={user}")
    (folder / "ca.key").unlink()  # a deleted key cannot leak


def _make_certificate(folder: Path, name: str, subject: str) -> None:
    key, request, signed, plain = (f"{name}.{end}" for end in ("key", "csr", "crt", "p8"))
    for words in (
        ["req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/{subject}"],
        ["x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key",
         "-CAcreateserial", "-days", DAYS, "-extfile", "names.cnf", "-out", signed],
        ["pkcs8", "-topk8", "-nocrypt", "-in", key, "-out", plain],
    ):  # fmt: skip
        _run_openssl(folder, *words)
    parts = [(folder / file).read_text() for file in (plain, signed)]
    write_private(folder / f"{name}.pem", "".join(parts))
    for file in (key, plain):
        (folder / file).unlink()


def _run_openssl(folder: Path, *words: str) -> None:
    tools.run_tool([_openssl(), *words], "making a certificate with openssl", folder=folder)
