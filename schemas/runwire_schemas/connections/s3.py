"""Connection to an object store: one description for trainer, agent, worker and command line.

Nothing here imports a client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from runwire_schemas.connections.secret import PublicFacts, Secret, SecretError
from runwire_schemas.connections.table import (
    PATH,
    SECRET,
    TEXT,
    rows_of,
    setting,
    table_values,
)
from runwire_schemas.errors import ConfigError

PREFIX: Final = "RUNWIRE_S3_"
DEFAULT_BUCKET: Final = "runwire"
ENDPOINT_VARIABLE: Final = PREFIX + "ENDPOINT"
# What every S3 server takes; see the bucket naming rules of Amazon's user guide.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEMES: Final = ("http", "https")
_KEYS: Final = ("access_key", "secret_key")
_TLS: Final = ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location")


class S3SettingsError(ConfigError):
    """The settings cannot describe an object store; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """One bucket and one identity there; each field is RUNWIRE_S3_<NAME>.

    Raises: S3SettingsError for a malformed address or bucket, and for half a login.
    """

    PREFIX: ClassVar[str] = PREFIX

    endpoint: str = setting(
        TEXT,
        "",
        "object store of artifacts: http://host:port, or host:port for https; unset: no S3",
    )
    bucket: str = setting(TEXT, DEFAULT_BUCKET, "bucket there; `runwire migrate` makes it")
    access_key: str = setting(TEXT, "", "access key id")
    access_key_file: str = setting(PATH, "", "file that holds the access key id")
    secret_key: str = setting(SECRET, "", "secret key; a file is safer")
    secret_key_file: str = setting(PATH, "", "file that holds the secret key")
    region: str = setting(TEXT, "", "region of the bucket; unset: the store is asked")
    ssl_ca_location: str = setting(
        PATH,
        "",
        "certificate authority of the store (PEM file); unset: SSL_CERT_FILE, else public ones",
    )
    ssl_certificate_location: str = setting(
        PATH, "", "client certificate, for a store that asks for one (PEM file)"
    )
    ssl_key_location: str = setting(
        PATH, "", "key of the client certificate (PEM file); unset: in the file of the certificate"
    )

    def __post_init__(self) -> None:
        self._check_endpoint()
        self._check_tls()
        if not _BUCKET.fullmatch(self.bucket):
            raise S3SettingsError(
                f"{PREFIX}BUCKET={self.bucket!r}: a bucket has 3 to 63 lower-case letters, digits, "
                "dots and hyphens, and starts and ends with a letter or digit"
            )
        for secret in self.secrets.values():
            if not secret:
                raise S3SettingsError(
                    f"{PREFIX}ENDPOINT is set without the login: "
                    f"set {secret.environment}_FILE or {secret.environment}"
                )

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted: always, unless the endpoint says http://."""
        return not self.endpoint.startswith("http://")

    @property
    def address(self) -> str:
        """Host and port, as clients take them."""
        return self.endpoint.rpartition("://")[2].rstrip("/")

    @property
    def url(self) -> str:
        """The endpoint with its scheme."""
        return f"{'https' if self.is_secure else 'http'}://{self.address}"

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Access key and secret key, each by value or by file."""
        return {
            name: Secret(
                value=getattr(self, name),
                file=getattr(self, f"{name}_file"),
                environment=PREFIX + name.upper(),
            )
            for name in _KEYS
        }

    @property
    def identity(self) -> tuple[str, str]:
        """Access key and secret key themselves. Raises: S3SettingsError for unreadable files."""
        return self._key("access_key"), self._key("secret_key")

    def public(self) -> PublicFacts:
        """Return the facts that may be written down: addresses, and the places of secrets.

        The access key id is no secret: it is written down unless it is in a file.
        """
        facts: PublicFacts = {"endpoint": self.url, "bucket": self.bucket}
        facts |= {name: secret.describe() for name, secret in self.secrets.items()}
        if not self.access_key_file:
            facts["access_key"] = self.access_key
        more = ("region", *_TLS)
        return facts | {name: getattr(self, name) for name in more if getattr(self, name)}

    @classmethod
    def from_public(cls, facts: Mapping[str, Any]) -> Self | None:
        """Return the settings with these public facts; None unless files hold both secrets.

        Takes the facts as `read_facts` returns them.
        """
        access, secret = facts.get("access_key", ""), facts.get("secret_key", "")
        try:
            settings = cls(
                endpoint=facts.get("endpoint", ""),
                bucket=facts.get("bucket", ""),
                region=facts.get("region", ""),
                **{name: facts.get(name, "") for name in _TLS},
                access_key=access if isinstance(access, str) else "",
                access_key_file=_file_of(access),
                secret_key_file=_file_of(secret),
            )
        except S3SettingsError:
            return None
        return settings if settings.public() == dict(facts) else None

    def environment(self) -> dict[str, str]:
        """Return the variables that make another process see these settings."""
        rows = rows_of(S3Settings).values()
        return {row.env: getattr(self, row.name) for row in rows if getattr(self, row.name)}

    def _key(self, name: str) -> str:
        secret = self.secrets[name]
        try:
            return secret.read()
        except SecretError as error:
            raise S3SettingsError(f"{PREFIX}{name.upper()}_FILE={secret.file}: {error}") from error

    def _check_tls(self) -> None:
        named = [f"{PREFIX}{name.upper()}" for name in _TLS if getattr(self, name)]
        if named and not self.is_secure:
            raise S3SettingsError(
                f"{' and '.join(named)}: the endpoint {self.endpoint!r} is not encrypted; write it "
                "with https://"
            )
        if self.ssl_key_location and not self.ssl_certificate_location:
            raise S3SettingsError(
                f"{PREFIX}SSL_KEY_LOCATION is set without its certificate: set "
                f"{PREFIX}SSL_CERTIFICATE_LOCATION too"
            )

    def _check_endpoint(self) -> None:
        accepted = "give http://host:port, https://host:port, or host:port for https"
        try:
            parts = urlsplit(self.endpoint if "://" in self.endpoint else f"//{self.endpoint}")
            # The password of a URL would travel into logs and views with the address.
            has_secret = parts.username is not None or parts.password is not None
            is_address = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise S3SettingsError(f"{PREFIX}ENDPOINT is no address: {accepted}") from None
        if has_secret:
            raise S3SettingsError(
                f"{PREFIX}ENDPOINT holds a login: {accepted}, and the login in "
                f"{PREFIX}ACCESS_KEY and {PREFIX}SECRET_KEY_FILE"
            )
        extra = parts.path.strip("/") or parts.query or parts.fragment
        if not is_address or extra or parts.scheme not in {"", *_SCHEMES}:
            raise S3SettingsError(f"{PREFIX}ENDPOINT={self.endpoint!r}: {accepted}")


def from_environment(environ: Mapping[str, str]) -> S3Settings | None:
    """Read the settings; None when no endpoint is named. Raises: S3SettingsError."""
    values = table_values(environ, S3Settings)
    return S3Settings(**values) if "endpoint" in values else None


def _file_of(description: Any) -> str:
    try:
        return Secret.from_description(description).file
    except (TypeError, ValueError):
        return ""
