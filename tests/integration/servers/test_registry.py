"""The registry of the tests: it registers, looks up, and refuses incompatible schemas."""

import http.client
import json
import uuid
from urllib.parse import urlsplit

from support.servers import Registry

FIRST = {"type": "record", "name": "Point", "fields": [{"name": "step", "type": "long"}]}


def ask(registry: Registry, method: str, path: str, body: object = None) -> tuple[int, object]:
    parts = urlsplit(registry.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    status, found = answer.status, json.loads(answer.read())
    connection.close()
    return status, found


def with_field(**field: object) -> dict[str, object]:
    fields = [*FIRST["fields"], field]
    return {"schema": json.dumps({**FIRST, "fields": fields})}


def test_registry_returns_a_schema_by_its_id(registry: Registry) -> None:
    """A registered schema is found under the id that the registry gave it."""
    subject = f"/subjects/{uuid.uuid4().hex}-value/versions"
    status, registered = ask(registry, "POST", subject, {"schema": json.dumps(FIRST)})
    assert status == 200
    status, found = ask(registry, "GET", f"/schemas/ids/{registered['id']}")
    assert (status, json.loads(found["schema"])) == (200, FIRST)


def test_registry_refuses_an_incompatible_schema(registry: Registry) -> None:
    """A new field with a default is accepted; one without would break readers of old records."""
    subject = f"/subjects/{uuid.uuid4().hex}-value/versions"
    ask(registry, "POST", subject, {"schema": json.dumps(FIRST)})
    assert ask(registry, "POST", subject, with_field(name="a", type="long", default=0))[0] == 200
    status, said = ask(registry, "POST", subject, with_field(name="b", type="long"))
    assert (status, said["error_code"]) == (409, 409)
