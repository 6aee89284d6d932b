"""Lifecycle rules of a bucket as XML: ours are set by their id, the bytes of all others stay.

A client that parses rules into its own classes drops what it does not know, so foreign rules are
never parsed and written again: ours are cut out of the document and put in beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape

from runwire_consumers.core.errors import WorkerError

__all__ = ["ExpiryRule", "LifecycleError", "has_rule", "set_rule"]

_NEW: Final = (
    b'<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"</LifecycleConfiguration>"
)
_ROOT: Final = "LifecycleConfiguration"


class LifecycleError(WorkerError):
    """The rules have a form that we do not know, so they are left as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryRule:
    """One rule of ours: objects under a prefix, or incomplete uploads, expire after some days."""

    name: str
    prefix: str
    days: int
    is_for_uploads: bool = False

    @property
    def leaves(self) -> dict[str, str]:
        """The values of the rule by their path, as `_Scan` finds them."""
        action = (
            "AbortIncompleteMultipartUpload/DaysAfterInitiation"
            if self.is_for_uploads
            else "Expiration/Days"
        )
        leaves = {"ID": self.name, "Status": "Enabled", action: str(self.days)}
        return leaves | ({"Prefix": self.prefix} if self.prefix else {})

    def xml(self, *, namespace: str, has_filter: bool) -> bytes:
        """Return the rule; a document is of one version, with prefixes in filters or without."""

        def element(name: str, content: str) -> str:
            return f"<{namespace}{name}>{content}</{namespace}{name}>"

        prefix = element("Prefix", escape(self.prefix))
        days = str(self.days)
        return element(
            "Rule",
            element("ID", escape(self.name))
            + element("Status", "Enabled")
            + (element("Filter", prefix) if has_filter else prefix)
            + (
                element("AbortIncompleteMultipartUpload", element("DaysAfterInitiation", days))
                if self.is_for_uploads
                else element("Expiration", element("Days", days))
            ),
        ).encode()


@dataclass(slots=True)
class _Found:
    """One rule of a document: its bytes from `start` to `end`, and its values by their path."""

    start: int
    end: int = 0
    leaves: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """The values without the empty ones, whatever version the document is of."""
        return {
            path.replace("Filter/Prefix", "Prefix"): text
            for path, text in self.leaves.items()
            if text
        }


class _Scan:
    """Finds the rules of a document and where new ones belong. Raises: LifecycleError."""

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._path: list[str] = []
        self._text = ""
        self.rules: list[_Found] = []
        self.namespace = ""
        self.end = 0
        parser = self._parser = ParserCreate()
        parser.StartElementHandler = self._open
        parser.EndElementHandler = self._close
        parser.CharacterDataHandler = self._note_text
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.XmlDeclHandler = self._check_encoding
        try:
            parser.Parse(document, True)
        except ExpatError as error:
            raise LifecycleError(f"no XML: {error}") from error

    def _open(self, name: str, _: dict[str, str]) -> None:
        space, colon, local = name.rpartition(":")
        self._path.append(local)
        self._text = ""
        if len(self._path) == 1:
            if local != _ROOT:
                raise LifecycleError(f"the document is a {local}")
            self.namespace = space + colon
        elif self._path == [_ROOT, "Rule"]:
            self.rules.append(_Found(self._parser.CurrentByteIndex))

    def _close(self, name: str) -> None:
        at = self._parser.CurrentByteIndex
        if len(self._path) == 1:
            self.end = at
        elif self._path == [_ROOT, "Rule"]:
            self.rules[-1].end = self._document.index(b">", at) + 1
        elif self._path[:2] == [_ROOT, "Rule"]:
            path = "/".join(self._path[2:])
            leaves = self.rules[-1].leaves
            if path in leaves and path == "ID":
                raise LifecycleError("a rule has two ids")
            leaves.setdefault(path, self._text.strip())
        self._path.pop()
        self._text = ""

    def _note_text(self, text: str) -> None:
        self._text += text

    def _refuse_doctype(self, *_: object) -> None:
        raise LifecycleError("the document has a DOCTYPE")

    def _check_encoding(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.upper() not in {"UTF-8", "US-ASCII"}:
            raise LifecycleError(f"the document is in {encoding}")


def has_rule(document: bytes | None, rule: ExpiryRule) -> bool:
    """Return whether the rule is in force, also under the name that another tool gave it.

    Raises: LifecycleError.
    """
    if document is None:
        return False
    scan = _Scan(document)
    ours = _named(scan, rule)
    if ours:
        return len(ours) == 1 and ours[0].facts == rule.leaves
    wanted = {**rule.leaves, "ID": ""}
    return any({**found.facts, "ID": ""} == wanted for found in scan.rules)


def set_rule(document: bytes | None, rule: ExpiryRule) -> bytes:
    """Return the document with this rule in place of every one of its id; other bytes stay.

    Raises: LifecycleError.
    """
    document = document or _NEW
    scan = _Scan(document)
    ours = _named(scan, rule)
    foreign = [found for found in scan.rules if found not in ours]
    # Version 1 has prefixes beside the action; a document may not mix both.
    has_filter = not any("Prefix" in found.leaves for found in foreign)
    if document[scan.end : scan.end + 2] != b"</":
        if foreign or ours:
            raise LifecycleError("the document has no end")
        return set_rule(None, rule)  # <LifecycleConfiguration/>
    parts, at = [], 0
    for found in ours:
        parts.append(document[at : found.start])
        at = found.end
    parts.append(document[at : scan.end])
    parts.append(rule.xml(namespace=scan.namespace, has_filter=has_filter))
    parts.append(document[scan.end :])
    return b"".join(parts)


def _named(scan: _Scan, rule: ExpiryRule) -> list[_Found]:
    return [found for found in scan.rules if found.leaves.get("ID") == rule.name]
