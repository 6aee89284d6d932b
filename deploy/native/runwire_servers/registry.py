"""Schema registry with Confluent's API that keeps schemas in memory, for tests and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runwire_servers.golang import Program
from runwire_servers.places import Places
from runwire_servers.server import Launch, Server

MODULE = "github.com/axonops/axonops-schema-registry"
PROGRAM = Program(
    "schema-registry", MODULE, "v0.2.1", f"{MODULE}/cmd/schema-registry", module_folder="registry"
)


class Registry(Server):
    """The schema registry of AxonOps."""

    name = "registry"
    version = PROGRAM.version

    def fetch(self, places: Places) -> None:
        """Build the program if it is missing. Raises: ServersError."""
        PROGRAM.build(places)

    def port_names(self) -> Sequence[str]:
        """Return the only name."""
        return ["http"]

    def address(self, ports: Mapping[str, int]) -> str:
        """Return the URL for clients of a Confluent registry."""
        return f"http://127.0.0.1:{ports['http']}"

    def prepare(self, places: Places, ports: Mapping[str, int]) -> dict[str, Launch]:
        """Return the process; its environment is its whole configuration."""
        places.data(self.name).mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {
            "SCHEMA_REGISTRY_HOST": "127.0.0.1",
            "SCHEMA_REGISTRY_PORT": str(ports["http"]),
            "SCHEMA_REGISTRY_COMPATIBILITY_LEVEL": "BACKWARD",
        }
        url = f"{self.address(ports)}/subjects"
        return {"1": Launch([str(PROGRAM.path(places))], environment, ready_url=url)}
