"""Client of an optional schema registry with Confluent's REST API.

Subjects are `<topic>-value`. Producers look up ids and fall back to the bundled ones; consumers
look up schemas by id. Only `register` writes, and only `runwire migrate` calls it.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runwire_schemas import codec
from runwire_schemas.connections.kafka import RegistrySettings
from runwire_schemas.errors import RegistryAway, SchemaError
from runwire_schemas.events import EVENTS
from runwire_schemas.registry_http import Answer, RegistryHttp
from runwire_schemas.topics import topic_name

URL_VARIABLE: Final = RegistrySettings.PREFIX + "URL"
COMPATIBILITY: Final = "BACKWARD_TRANSITIVE"
# "Unknown" is believed this long: a deploy registers schemas before it produces.
_UNKNOWN_S = 10.0
# Producers look for missing ids this often: each look may cost the whole timeout.
_LOOK_S = 60.0
_UNKNOWN_MAX = 1024
# A registry that did not answer is not asked again for this long, so that no batch waits.
_AWAY_S = 5.0
_SUBJECT_UNKNOWN, _SCHEMA_UNKNOWN = 40401, 40403
_HEADER = struct.Struct(">BI")

_log = logging.getLogger("runwire.registry")


class RegistryRefused(SchemaError):  # noqa: N818 - a word of its own, beside RegistryAway
    """The registry refused a request; the sentence says which, why and what to do next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One subject after `register`, with the compatibility that the registry enforces for it."""

    subject: str
    schema_id: int
    is_new: bool
    compatibility: str


class Registry:
    """One registry, as producers, consumers and `runwire migrate` need it. Threads: one."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "",
        timeout_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self._http = RegistryHttp(url, timeout_s=timeout_s)
        self._prefix, self._clock, self._say = prefix, clock, say
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._unknown: dict[int, float] = {}
        self._ask_again_at = 0.0
        self._away: tuple[float, str] | None = None
        self._said: set[str] = set()

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self._http.shown

    def subject(self, kind: str) -> str:
        """Return the subject of a kind."""
        return f"{topic_name(kind, self._prefix)}-value"

    def ids(self) -> dict[str, int]:
        """Return the id to write with, by kind: the registry's, else the bundled one.

        Blocks: one request per unknown kind, at most once a minute. Never raises.
        """
        if len(self._ids) < len(EVENTS) and self._clock() >= self._ask_again_at:
            self._ask_again_at = self._clock() + _LOOK_S
            try:
                self._find([kind for kind in EVENTS if kind not in self._ids])
            except (RegistryAway, RegistryRefused) as error:
                self._say_once(f"{error} Messages carry the bundled schema ids meanwhile.")
        return {kind: codec.bundled_id(kind) for kind in EVENTS} | self._ids

    def schema_text(self, schema_id: int) -> str | None:
        """Return the Avro schema of an id, None when the registry knows none: for `resolve_with`.

        Blocks: one request per unknown id. Raises: RegistryAway.
        """
        if schema_id in self._texts:
            return self._texts[schema_id]
        now = self._clock()
        if now < self._unknown.get(schema_id, 0.0):
            return None
        if self._away is not None and now < self._away[0]:
            raise RegistryAway(self._away[1])
        try:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}", passing=(_SCHEMA_UNKNOWN,))
        except (RegistryAway, RegistryRefused) as error:
            # A refused login says nothing about the message either.
            self._away = (now + _AWAY_S, str(error))
            raise RegistryAway(str(error)) from error
        self._away = None
        text = answer.text("schema")
        if text is None or answer.text("schemaType") not in (None, "AVRO"):
            if len(self._unknown) >= _UNKNOWN_MAX:
                self._unknown.clear()
            self._unknown[schema_id] = now + _UNKNOWN_S
            return None
        self._texts[schema_id] = text
        return text

    def register(self, kind: str, *, fix: bool = False) -> Registered:
        """Register all versions of a kind's schema, oldest first; return the one in force.

        New subjects get BACKWARD_TRANSITIVE; existing ones keep their setting unless `fix`.
        Raises: RegistryAway, RegistryRefused.
        """
        subject = self.subject(kind)
        versions = self._ask("GET", f"/subjects/{subject}/versions", passing=(_SUBJECT_UNKNOWN,))
        config = f"/config/{subject}"
        compatibility = "" if versions.is_missing else self._compatibility(config)
        if versions.is_missing or (fix and compatibility != COMPATIBILITY):
            self._ask("PUT", config, {"compatibility": COMPATIBILITY})
            compatibility = COMPATIBILITY
        is_new, schema_id = False, 0
        for text in codec.schema_versions(kind):
            found = self._lookup(subject, text)
            is_new, schema_id = found is None, found or self._add(subject, text)
        self._ids[kind] = schema_id
        return Registered(
            subject=subject, schema_id=schema_id, is_new=is_new, compatibility=compatibility
        )

    def incompatibilities(self, kind: str, text: str) -> list[str]:
        """Return why the registry would refuse a schema as the kind's next version; empty: it fits.

        Raises: RegistryAway, RegistryRefused.
        """
        path = f"/compatibility/subjects/{self.subject(kind)}/versions?verbose=true"
        answer = self._ask("POST", path, {"schema": text}, passing=(_SUBJECT_UNKNOWN,))
        if answer.is_missing or answer.body.get("is_compatible") is True:
            return []
        reasons = answer.body.get("messages")
        return [str(r) for r in reasons] if isinstance(reasons, list) and reasons else ["no reason"]

    def _find(self, kinds: list[str]) -> None:
        lacking = []
        for kind in kinds:
            found = self._lookup(self.subject(kind), codec.schema_json(kind))
            if found is None:
                lacking.append(self.subject(kind))
            else:
                self._ids[kind] = found
        if lacking:
            self._say_once(
                f"{self.shown} lacks the schemas of {', '.join(lacking)}: run `runwire migrate`. "
                f"Their messages carry the bundled schema ids meanwhile."
            )

    def _lookup(self, subject: str, text: str) -> int | None:
        unknown = (_SUBJECT_UNKNOWN, _SCHEMA_UNKNOWN)
        answer = self._ask("POST", f"/subjects/{subject}", {"schema": text}, passing=unknown)
        return None if answer.is_missing else self._id_in(answer, subject)

    def _add(self, subject: str, text: str) -> int:
        answer = self._http.request("POST", f"/subjects/{subject}/versions", {"schema": text})
        if answer.status == 409:
            raise RegistryRefused(
                f"{self.shown} refuses the schema of subject {subject} as incompatible with an "
                f"earlier version: {answer.message}. Was the subject written by something else? "
                f"Choose another RUNWIRE_KAFKA_TOPIC_PREFIX, or delete that subject"
            )
        return self._id_in(self._checked(answer), subject)

    def _id_in(self, answer: Answer, subject: str) -> int:
        schema_id = answer.body.get("id")
        if not isinstance(schema_id, int) or not 0 < schema_id < codec.BUNDLED_ID_BASE:
            raise RegistryRefused(
                f"{self.shown} numbers the schema of subject {subject} {schema_id!r}; ids from 1 "
                f"to {codec.BUNDLED_ID_BASE - 1} can be used"
            )
        return schema_id

    def _compatibility(self, path: str) -> str:
        answer = self._http.request("GET", path)
        return (
            "" if answer.status == 404 else self._checked(answer).text("compatibilityLevel") or ""
        )

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        passing: tuple[int, ...] = (),
    ) -> Answer:
        answer = self._http.request(method, path, body)
        return answer if answer.error_code in passing else self._checked(answer)

    def _checked(self, answer: Answer) -> Answer:
        if answer.status == 200:
            return answer
        if answer.status in (401, 403):
            raise RegistryRefused(
                f"{self.shown} refuses the user or password in {URL_VARIABLE} ({answer.status})."
            )
        what = answer.message or "no reason given"
        raise RegistryRefused(f"{self.shown} answers {answer.status} to {answer.path}: {what}.")

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)


def from_environment(
    environ: Mapping[str, str], *, prefix: str = "", say: Callable[[str], None] = _log.warning
) -> Registry | None:
    """Return the registry that the environment names, None without one.

    Raises: SchemaError when RUNWIRE_SCHEMA_REGISTRY_URL is no http(s) address.
    """
    url = RegistrySettings.from_environment(environ).url.strip()
    return Registry(url, prefix=prefix, say=say) if url else None


def with_id(value: bytes, schema_id: int) -> bytes:
    """Return a message under another schema id. Raises: SchemaError when it has no header."""
    if len(value) < codec.HEADER_BYTES or value[0] != 0:
        raise SchemaError("a message without the Avro header cannot get another schema id")
    return _HEADER.pack(0, schema_id) + value[codec.HEADER_BYTES :]
