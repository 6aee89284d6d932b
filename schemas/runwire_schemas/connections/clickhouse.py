"""Connection to ClickHouse: its settings, its address, and the meaning of its error codes.

Workers, migrations and the read side share this module; nothing here imports a driver.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final, Self
from urllib.parse import unquote, urlsplit

from runwire_schemas.connections.table import SECRET, setting, table_values
from runwire_schemas.errors import ConfigError

__all__ = [
    "URL_VARIABLE",
    "ClickHouseAddress",
    "ClickHouseSettings",
    "ClickHouseSettingsError",
    "ClickHouseTrouble",
    "error_code",
    "error_sentence",
    "explain_error",
    "first_line",
    "trouble_of",
]

DEFAULT_DATABASE: Final = "runwire"
DEFAULT_USER: Final = "default"
_PORTS: Final = {"http": 8123, "https": 8443}
# Server messages can hold whole statements; longer ones do not fit a log line.
_SENTENCE_CHARS_MAX: Final = 300


class ClickHouseSettingsError(ConfigError):
    """The URL of ClickHouse cannot be used; the message shows the accepted form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseSettings:
    """Where ClickHouse is; unset: the engine that `runwire up` started for the data root."""

    PREFIX: ClassVar[str] = "RUNWIRE_CLICKHOUSE_"

    url: str | None = setting(
        SECRET, None, "`http://user:password@host:port/database`; unset: the engine of `runwire up`"
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. Raises: ConfigError."""
        return cls(**table_values(environ, cls))


URL_VARIABLE: Final = ClickHouseSettings.PREFIX + "URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseAddress:
    """A parsed URL; `source` is the variable or file that it came from, for messages."""

    scheme: str
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str
    options: str = field(repr=False)
    source: str
    shown: str

    @classmethod
    def parse(cls, url: str, *, source: str = URL_VARIABLE) -> Self:
        """Split `http://user:password@host:port/database`; user, port and database have defaults.

        Raises: ClickHouseSettingsError, without the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _malformed("(unreadable)", source) from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise _malformed(parts.scheme or "(no scheme)", source)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        shown_port = f":{port}" if port else ""
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            username=unquote(parts.username or DEFAULT_USER),
            password=unquote(parts.password or ""),
            database=parts.path.strip("/") or DEFAULT_DATABASE,
            options=parts.query,
            source=source,
            shown=f"{parts.scheme}://{host}{shown_port}{parts.path}",
        )

    def client_arguments(self) -> dict[str, Any]:
        """Return the connection part of clickhouse-connect's arguments, the password included.

        A query string (`?ca_cert=...`) holds further arguments, under the driver's own names.
        """
        arguments: dict[str, Any] = {
            "interface": self.scheme,
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
        }
        return arguments | ({"dsn": f"{self.scheme}://?{self.options}"} if self.options else {})

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that compression only costs time."""
        return self.host in {"127.0.0.1", "localhost", "::1"}


def _malformed(scheme: str, source: str) -> ClickHouseSettingsError:
    return ClickHouseSettingsError(
        f"{source} must look like http://user:password@host:8123/database, not {scheme}://…"
    )


class ClickHouseTrouble(Enum):
    """What a failed request means, by what ends it; the value is the sentence for people."""

    UNREACHABLE = (
        "ClickHouse at {shown} does not answer ({detail}): start it (the embedded one with "
        "`runwire up`) or correct {source}; `runwire doctor` looks closer"
    )
    PASSWORD = (
        "ClickHouse at {shown} refused the password of user `{user}`: correct {source} "
        "(http://user:password@host:port/database); for the embedded engine `runwire down` and "
        "`runwire up` write a fresh one"
    )
    RIGHTS = "user `{user}` may not do this on {shown}: {detail}"
    DATABASE = (
        "ClickHouse at {shown} has no database `{database}` (or this user may not see it): create "
        "it with `runwire migrate`, or correct {source}"
    )
    SCHEMA = (
        "ClickHouse at {shown} lacks a table or column this version needs: run `runwire migrate` "
        "({detail})"
    )
    DISK_FULL = "the disk of ClickHouse at {shown} is full: free space on it"
    PASSING = "ClickHouse at {shown} cannot do it now: {detail}"
    REFUSED = "ClickHouse at {shown} refused a request: {detail}"

    def sentence(self, address: ClickHouseAddress, detail: str = "") -> str:
        """Return the sentence about this address, without the password."""
        template: str = self.value
        return template.format(
            shown=address.shown,
            user=address.username,
            database=address.database,
            source=address.source,
            detail=detail,
        )


# Codes of src/Common/ErrorCodes.cpp; a code without a row is REFUSED.
_TROUBLES: Final = {
    code: trouble
    for trouble, codes in {
        # UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
        ClickHouseTrouble.PASSWORD: (192, 193, 194, 516),
        # READONLY, ACCESS_DENIED
        ClickHouseTrouble.RIGHTS: (164, 497),
        # UNKNOWN_DATABASE
        ClickHouseTrouble.DATABASE: (81,),
        # NOT_FOUND_COLUMN_IN_BLOCK, NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, UNKNOWN_TABLE
        ClickHouseTrouble.SCHEMA: (10, 16, 47, 60),
        # NOT_ENOUGH_SPACE
        ClickHouseTrouble.DISK_FULL: (243,),
        # TIMEOUT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR,
        # MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, TOO_MANY_PARTS, ALL_CONNECTION_TRIES_FAILED,
        # quorum (285, 286), UNKNOWN_STATUS_OF_INSERT, QUERY_WAS_CANCELLED, S3_ERROR,
        # KEEPER_EXCEPTION
        ClickHouseTrouble.PASSING: (
            *(159, 202, 209, 210, 241, 242, 252, 279, 285, 286, 319, 394, 499, 999),
        ),
    }.items()
    for code in codes
}


def error_code(error: BaseException) -> int | None:
    """Return ClickHouse's numeric error code; None when the error is not the server's."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    match = re.search(r"[Cc]ode:?\s*(\d+)", str(error))
    return int(match[1]) if match else None


def trouble_of(error: BaseException) -> ClickHouseTrouble:
    """Return what a failed request means; an error without a server code is UNREACHABLE."""
    code = error_code(error)
    if code is None:
        return ClickHouseTrouble.UNREACHABLE
    return _TROUBLES.get(code, ClickHouseTrouble.REFUSED)


def explain_error(error: BaseException, address: ClickHouseAddress) -> str:
    """Return one sentence about a failed request, without the password."""
    trouble = trouble_of(error)
    is_network = trouble is ClickHouseTrouble.UNREACHABLE
    return trouble.sentence(address, _network_reason(error) if is_network else first_line(error))


def error_sentence(text: str) -> str:
    """Return the sentence of a ClickHouse error without the driver's and the server's additions."""
    match = re.search(r"DB::Exception: (.*)", text, re.DOTALL)
    sentence = match.group(1) if match is not None else text
    sentence = re.sub(r"\s*\(version [^)]*(\)[^)]*)?\)", "", sentence)
    sentence = re.sub(r"\s*\(for url [^)]*\)", "", sentence)
    sentence = re.sub(r"(:|\.) (In scope|While processing|while executing) .*", ".", sentence)
    sentence = re.sub(r"\s*FORMAT [A-Za-z]+\.", ".", sentence)  # ours, not the user's
    # A syntax error lists every token that is possible there: no help, half a screen.
    sentence = re.sub(r"\. Expected one of: .*", ".", sentence, flags=re.DOTALL)
    return sentence.strip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's sentence, short enough for a log line."""
    lines = error_sentence(str(error)).splitlines() or [type(error).__name__]
    return lines[0][:_SENTENCE_CHARS_MAX]


def _network_reason(error: BaseException) -> str:
    """Return the operating system's reason from an error that two libraries have wrapped."""
    match = re.search(r"\[Errno -?\d+\] [A-Za-z ]+|timed out|[Tt]imeout", str(error))
    return match[0] if match else first_line(error)
