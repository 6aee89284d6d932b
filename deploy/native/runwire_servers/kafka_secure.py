"""Kafka with SASL_SSL, SCRAM-SHA-512 and ACLs: every user but `admin` needs an ACL."""

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


class SecureKafka(Kafka):
    """Clients use passwords over TLS; brokers and controllers use certificates."""

    def fetch(self, places: Places) -> None:
        """Find openssl, then fetch as without encryption. Raises: ServersError."""
        _openssl()
        super().fetch(places)

    def port_names(self) -> Sequence[str]:
        """Return three names per node: brokers use a separate listener among themselves."""
        return [*super().port_names(), *(f"internal-{label}" for label in self.labels)]

    def configure(self, home: Path, ports: Mapping[str, int]) -> None:
        """Create certificates and passwords once, then configure the nodes."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (home / "tls" / "server.pem").exists():
            _make_certificates(home / "tls")
        for user in USERS:
            if not (file := _password_file(home, user)).exists():
                write_private(file, secrets.token_hex(16))
        super().configure(home, ports)

    def facts(self, home: Path) -> dict[str, Any]:
        """Return the certificate authority, and the password of each user."""
        return {
            "ca": str(home / "tls" / "ca.pem"),
            "users": {
                user: {
                    "password": _password_file(home, user).read_text(),
                    "password_file": str(_password_file(home, user)),
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
                ("CLIENT", "client"), ("INTERNAL", "internal"), ("CONTROLLER", "controller"),
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
            "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            **{f"listener.name.client.{key}": value for key, value in own.items()},
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
    """Create an authority, and the broker's certificate in one file with its key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "names.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl, key = _openssl(), ["-newkey", "rsa:2048", "-nodes"]
    for words in (
        ["req", "-x509", *key, "-days", DAYS, "-keyout", "ca.key", "-out", "ca.pem",
         "-subj", "/CN=runwire-test-ca"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr",
         "-subj", "/" + BROKER.removeprefix("User:")],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-CAcreateserial", "-days", DAYS, "-extfile", "names.cnf", "-out", "server.crt"],
        ["pkcs8", "-topk8", "-nocrypt", "-in", "server.key", "-out", "server.p8"],
    ):  # fmt: skip
        tools.run_tool([openssl, *words], "making a certificate with openssl", folder=folder)
    parts = [(folder / name).read_text() for name in ("server.p8", "server.crt")]
    write_private(folder / "server.pem", "".join(parts))
    for name in ("ca.key", "server.key", "server.p8"):
        (folder / name).unlink()  # a deleted key cannot leak
