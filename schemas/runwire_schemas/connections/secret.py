"""Secrets of connections, and the public facts that describe a connection without them.

Public facts are written into `meta.json`, `request.json` and the agent's state. A secret is
described there by the place that holds it: `{"file": "/path"}` or `{"environment": "NAME"}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from runwire_schemas.errors import ConfigError

__all__ = ["PublicFacts", "Secret", "SecretError", "facts_digest", "read_facts"]

PublicFacts = dict[str, Any]
"""Facts by name: a text, or the description of a secret."""

_FILE: Final = "file"
_ENVIRONMENT: Final = "environment"


class SecretError(ConfigError):
    """The file of a secret cannot be read; the message says why, without the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret by value or by file; `environment` is the variable that held the value.

    The file wins over the value. Without either there is no secret.
    """

    value: str = field(default="", repr=False)
    file: str = ""
    environment: str = ""

    def __bool__(self) -> bool:
        return bool(self.value or self.file)

    def read(self) -> str:
        """Return the secret itself. Raises: SecretError when its file cannot be read."""
        if not self.file:
            return self.value
        try:
            text = Path(self.file).expanduser().read_text("utf-8").strip()
        except OSError as error:
            raise SecretError(str(error.strerror)) from error
        except UnicodeDecodeError as error:
            raise SecretError("it is not text") from error
        if not text:
            raise SecretError("the file is empty")
        return text

    def describe(self) -> dict[str, str]:
        """Return the place that holds the secret; empty without a secret."""
        if self.file:
            return {_FILE: self.file}
        return {_ENVIRONMENT: self.environment} if self.value else {}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the secret that `describe` described; its value stays where it is.

        Raises: ValueError for what is no description.
        """
        if set(description) == {_FILE}:
            return cls(file=str(description[_FILE]))
        if set(description) == {_ENVIRONMENT}:
            return cls(environment=str(description[_ENVIRONMENT]))
        raise ValueError(f"{dict(description)!r} describes no secret")


# Facts that may describe a secret, of Kafka and of S3.
_SECRETS: Final = ("sasl_password", "access_key", "secret_key")


def read_facts(facts: Mapping[str, Any]) -> PublicFacts:
    """Return public facts from a file in their present form.

    Earlier versions described a secret as a text: "file /path" or "environment NAME".
    """
    return {
        name: _described(value) if name in _SECRETS and isinstance(value, str) else value
        for name, value in facts.items()
    }


def facts_digest(facts: Mapping[str, Any]) -> str:
    """Return sixteen hex digits that are the same exactly for the same public facts.

    Digests name locks and states on disk, so secrets count in the text form of earlier versions.
    """
    words = {
        name: " ".join(f"{kind} {place}" for kind, place in value.items())
        if isinstance(value, Mapping)
        else value
        for name, value in facts.items()
    }
    text = json.dumps(words, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _described(text: str) -> str | dict[str, str]:
    kind, _, place = text.partition(" ")
    return {kind: place} if place and kind in (_FILE, _ENVIRONMENT) else text
