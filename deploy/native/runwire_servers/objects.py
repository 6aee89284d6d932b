"""Object stores with the S3 protocol: versitygw, and an archived MinIO for comparison."""

from __future__ import annotations

import abc
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runwire_servers.golang import Program
from runwire_servers.places import Places, write_private
from runwire_servers.server import Launch, Server

ACCESS_KEY = "runwire"
KEY_FILE = "secret-key"


class ObjectStore(Server):
    """A store with one user; the secret key is generated once and kept beside the data."""

    program: Program

    def fetch(self, places: Places) -> None:
        """Build the program if it is missing. Raises: ServersError."""
        self.program.build(places)

    def address(self, ports: Mapping[str, int]) -> str:
        """Return the endpoint."""
        return f"http://127.0.0.1:{ports['s3']}"

    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Create the folders and the key."""
        home = places.data(self.name)
        for folder in (home / "objects", home / "versions"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (home / KEY_FILE).exists():
            write_private(home / KEY_FILE, secrets.token_hex(16))
        return {"1": self.launch(self.program.path(places), home, ports)}

    def facts(self, home: Path) -> dict[str, Any]:
        """Return the keys of the user."""
        return {"access_key": ACCESS_KEY, "secret_key": (home / KEY_FILE).read_text()}

    @abc.abstractmethod
    def launch(self, program: Path, home: Path, ports: Mapping[str, int]) -> Launch:
        """Return how to start this store."""


class Versitygw(ObjectStore):
    """Versity's gateway on a folder."""

    name = "versitygw"
    program = Program(
        "versitygw",
        "github.com/versity/versitygw",
        "v1.7.0",
        "github.com/versity/versitygw/cmd/versitygw",
    )
    version = program.version

    def port_names(self) -> Sequence[str]:
        """Return the only name."""
        return ["s3"]

    def launch(self, program: Path, home: Path, ports: Mapping[str, int]) -> Launch:
        """Return the command line; both folders must be absolute, health needs no signature."""
        command = [str(program), "--port", f"127.0.0.1:{ports['s3']}", "--health", "/health"]
        command += ["--quiet", "posix", "--versioning-dir", str(home / "versions")]
        secret = self.facts(home)["secret_key"]
        return Launch(
            [*command, str(home / "objects")],
            {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": secret},
            ready_url=f"{self.address(ports)}/health",
        )


class Minio(ObjectStore):
    """The last MinIO of its archived repository; for comparisons on loopback only."""

    name = "minio"
    # The only version that `go install` accepts: it refuses the go.mod of every release.
    program = Program(
        "minio",
        "github.com/minio/minio",
        "v0.0.0-20260212201848-7aac2a2c5b7c",
        "github.com/minio/minio",
    )
    version = "2026-02-12"

    def port_names(self) -> Sequence[str]:
        """Return a name for S3 and one for the web console."""
        return ["s3", "console"]

    def launch(self, program: Path, home: Path, ports: Mapping[str, int]) -> Launch:
        """Return the command line of a store on a single folder."""
        command = [str(program), "server", str(home / "objects"), "--quiet"]
        command += ["--address", f"127.0.0.1:{ports['s3']}"]
        command += ["--console-address", f"127.0.0.1:{ports['console']}"]
        secret = self.facts(home)["secret_key"]
        return Launch(
            command,
            {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": secret},
            ready_url=f"{self.address(ports)}/minio/health/ready",
        )
