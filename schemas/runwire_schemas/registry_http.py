"""JSON over HTTP to a schema registry: standard library only, bounded in time and size."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request

from runwire_schemas.connections.loopback import opener_for
from runwire_schemas.errors import RegistryAway, SchemaError

_JSON: Final = "application/vnd.schemaregistry.v1+json"
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
# Overloaded (429/503), or a gateway without a live backend (502/504): retry later.
_PASSING: Final = frozenset((408, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status and JSON object of one answer; any other JSON counts as an empty object."""

    path: str
    status: int
    body: dict[str, Any]

    @property
    def error_code(self) -> int:
        """The registry's own code, 0 without one."""
        code = self.body.get("error_code")
        return code if isinstance(code, int) else 0

    @property
    def is_missing(self) -> bool:
        """Whether the registry answered that the subject or schema does not exist."""
        return self.status == 404

    @property
    def message(self) -> str:
        """The registry's own error message."""
        return (self.text("message") or "").strip()

    def text(self, name: str) -> str | None:
        """Return a text field of the body, None without one."""
        value = self.body.get(name)
        return value if isinstance(value, str) else None


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect, which would carry the password to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow nothing."""


class RegistryHttp:
    """Requests to one registry; user and password come from its URL."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url.strip())
        try:
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
            raise SchemaError(
                "RUNWIRE_SCHEMA_REGISTRY_URL is no address: use http://host:port or "
                "https://user:password@host:port"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._base = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
        self.shown = f"The schema registry at {self._base}"
        self._timeout_s = timeout_s
        self._headers = {"Accept": f"{_JSON}, application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(login.encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._opener = opener_for(parts.hostname, _NoRedirect)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Return the answer to one request, also a refusal.

        Blocks: at most the timeout. Raises: RegistryAway without an answer in JSON.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else {**self._headers, "Content-Type": _JSON}
        request = Request(self._base + path, data, headers, method=method)  # noqa: S310 - http(s)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as reply:
                return self._answer(path, reply.status, reply.read(_ANSWER_BYTES_MAX + 1))
        except HTTPError as error:
            with error:
                return self._refusal(path, error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise RegistryAway(f"{self.shown} does not answer ({reason}).") from error

    def _refusal(self, path: str, error: HTTPError) -> Answer:
        if error.code in _PASSING:
            raise RegistryAway(f"{self.shown} answers {error.code}.") from error
        try:
            body = error.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException):
            body = b"{}"
        if error.code in (401, 403):  # the body is often a proxy's page
            return Answer(path=path, status=error.code, body={})
        return self._answer(path, error.code, body)

    def _answer(self, path: str, status: int, body: bytes) -> Answer:
        try:
            found = json.loads(body[:_ANSWER_BYTES_MAX])
        except (ValueError, RecursionError) as error:
            raise RegistryAway(
                f"{self.shown} does not speak the language of schema registries (answer {status} "
                f"to {path}): is RUNWIRE_SCHEMA_REGISTRY_URL right?"
            ) from error
        return Answer(path=path, status=status, body=found if isinstance(found, dict) else {})
