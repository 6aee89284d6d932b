"""Connection to ClickHouse: its settings, its address, and the meaning of its errors.

Workers, migrations and the read side share this module; nothing here imports a driver.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from runwire_schemas.connections.clickhouse_troubles import ClickHouseTrouble, troubles_by_code
from runwire_schemas.connections.loopback import is_loopback
from runwire_schemas.connections.secret import Secret, SecretError
from runwire_schemas.connections.table import PATH, SECRET, setting, table_values
from runwire_schemas.errors import ConfigError

__all__ = [
    "PASSWORD_FILE_VARIABLE",
    "URL_VARIABLE",
    "ClickHouseAddress",
    "ClickHouseSettings",
    "ClickHouseSettingsError",
    "error_code",
    "error_sentence",
    "explain_error",
    "first_line",
    "sentence_of",
    "trouble_of",
]

DEFAULT_DATABASE: Final = "runwire"
DEFAULT_USER: Final = "default"
_PORTS: Final = {"http": 8123, "https": 8443}
_AFTER_LOGIN: Final = re.compile(
    r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d*)?(?:/[^/?#@]*/?)?(?:\?[\w-]+=.*)?"
)
# Server messages can hold whole statements; longer ones do not fit a log line.
_SENTENCE_CHARS_MAX: Final = 300
# clickhouse-connect's texts where the server gave no code: a status that a proxy answered, a
# setting that the driver knows to be fixed, a request that did not reach its end.
_PROXY_STATUS = re.compile(r"received HTTP status (\d{3})")
_DRIVER_SETTING = re.compile(r"[Ss]etting \S+ is (?:readonly|unknown)|readonly setting")
_TRANSPORT = re.compile(r"executing HTTP request|Connection|[Tt]imeout|timed out|\[Errno -?\d+\]")
_NETWORK_REASON = re.compile(
    r"\[Errno -?\d+\] [A-Za-z ]+|\[SSL: [A-Z0-9_]+\] [A-Za-z0-9 ]+|timed out|[Tt]imeout"
)
_PASSING_STATUSES: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class ClickHouseSettingsError(ConfigError):
    """The URL of ClickHouse cannot be used; the message shows the accepted form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseSettings:
    """Where ClickHouse is; unset: the engine that `runwire up` started for the data root."""

    PREFIX: ClassVar[str] = "RUNWIRE_CLICKHOUSE_"

    url: str | None = setting(
        SECRET, None, "`http://user:password@host:port/database`; unset: the engine of `runwire up`"
    )
    password_file: str = setting(
        PATH, "", "file that holds the password, which wins over the URL's; workers read it again"
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings; `url` has the password of the file as it is now.

        Raises: ConfigError, also for a password file that cannot be read.
        """
        settings = cls(**table_values(environ, cls))
        if settings.url is None or not settings.password_file:
            return settings
        try:
            password = Secret(file=settings.password_file).read()
        except SecretError as error:
            raise ClickHouseSettingsError(
                f"{PASSWORD_FILE_VARIABLE}={settings.password_file}: {error}"
            ) from error
        return replace(settings, url=_with_password(settings.url, password))


URL_VARIABLE: Final = ClickHouseSettings.PREFIX + "URL"
PASSWORD_FILE_VARIABLE: Final = ClickHouseSettings.PREFIX + "PASSWORD_FILE"


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

        Escapes in user and password are decoded; characters that should have been escaped are
        taken as they are. Raises: ClickHouseSettingsError, without the password.
        """
        login, url = _split_login(url)
        user, _, password = login.partition(":")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _malformed("(unreadable)", source) from None
        if parts.scheme not in _PORTS or not parts.hostname or "@" in url.partition("?")[0]:
            raise _malformed(parts.scheme or "(no scheme)", source)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        shown_port = f":{port}" if port else ""
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            username=unquote(user or DEFAULT_USER),
            password=unquote(password),
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
        if not self.options:
            return arguments
        options = parse_qs(self.options)
        if self.password and "client_cert" in options and "tls_mode" not in options:
            # The driver would log in by the certificate and leave the password out.
            arguments["tls_mode"] = "strict"
        return arguments | {"dsn": f"{self.scheme}://?{self.options}"}

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that compression only costs time."""
        return is_loopback(self.host)

    @property
    def is_direct(self) -> bool:
        """Whether the driver's common connections serve it, past any proxy of the environment."""
        return self.is_local and not self.options


def _with_password(url: str, password: str) -> str:
    """Return a URL with this password; one without a scheme is returned as it is, for `parse`."""
    login, bare = _split_login(url)
    scheme, separator, rest = bare.partition("://")
    if not separator:
        return url
    user = login.partition(":")[0] or DEFAULT_USER
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest}"


def _split_login(url: str) -> tuple[str, str]:
    """Return (user and password, URL without them), also where the password has `/ # ? @`.

    The login ends at the first @ that only a host, a port, a database and options follow.
    """
    scheme, _, rest = url.partition("://")
    if _AFTER_LOGIN.fullmatch(rest):
        return "", url  # an @ in its options is part of a path
    for at in re.finditer("@", rest):
        if _AFTER_LOGIN.fullmatch(rest, at.end()):
            return rest[: at.start()], f"{scheme}://{rest[at.end() :]}"
    return "", url


def _malformed(scheme: str, source: str) -> ClickHouseSettingsError:
    return ClickHouseSettingsError(
        f"{source} must look like http://user:password@host:8123/database, not {scheme}://…; write "
        f"/ # ? @ % of a password as %2F %23 %3F %40 %25, or the password into the file of "
        f"{PASSWORD_FILE_VARIABLE}"
    )


def error_code(error: BaseException) -> int | None:
    """Return ClickHouse's numeric error code; None when the error is not the server's."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    match = re.search(r"[Cc]ode:?\s*(\d+)", str(error))
    return int(match[1]) if match else None


def trouble_of(error: BaseException) -> ClickHouseTrouble:
    """Return what a failed request means.

    An error without the server's code comes from a proxy, from the driver or from the network.
    """
    if (status := _PROXY_STATUS.search(str(error))) is not None:
        return _of_status(int(status[1]))
    if (code := error_code(error)) is not None:
        return troubles_by_code().get(code, ClickHouseTrouble.UNKNOWN)
    text = str(error)
    if _DRIVER_SETTING.search(text):
        return ClickHouseTrouble.SETTING
    if "certificate verify failed" in text.lower() or "SSLError" in text:
        return ClickHouseTrouble.UNTRUSTED
    is_network = isinstance(error, OSError) or type(error).__module__.startswith("urllib3")
    if is_network or _TRANSPORT.search(text):
        return ClickHouseTrouble.UNREACHABLE
    return ClickHouseTrouble.UNKNOWN


def _of_status(status: int) -> ClickHouseTrouble:
    """Return what an HTTP status without a code of ClickHouse means: a proxy answered."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ClickHouseTrouble.TOO_LARGE
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        return ClickHouseTrouble.PASSWORD
    if status == HTTPStatus.FORBIDDEN:
        return ClickHouseTrouble.RIGHTS
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUSES:
        return ClickHouseTrouble.PASSING
    return ClickHouseTrouble.UNKNOWN


def sentence_of(trouble: ClickHouseTrouble, address: ClickHouseAddress, detail: str = "") -> str:
    """Return the sentence for people about a trouble at this address, without the password."""
    template: str = trouble.value
    return template.format(
        shown=address.shown,
        user=address.username,
        database=address.database,
        source=address.source,
        detail=detail,
    )


def explain_error(error: BaseException, address: ClickHouseAddress) -> str:
    """Return one sentence about a failed request, without the password."""
    trouble = trouble_of(error)
    if (status := _PROXY_STATUS.search(str(error))) is not None:
        detail = f"HTTP status {status[1]}, without a code of ClickHouse"  # the rest is a page
    elif trouble in (ClickHouseTrouble.UNREACHABLE, ClickHouseTrouble.UNTRUSTED):
        detail = _network_reason(error)
    else:
        detail = first_line(error)
    return sentence_of(trouble, address, detail)


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
    match = _NETWORK_REASON.search(str(error))
    return match[0] if match else first_line(error)
