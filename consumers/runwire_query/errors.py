"""The error of the read side, and the escaping of foreign text that such a message quotes."""

from __future__ import annotations

import re
from typing import Final

from runwire_schemas.errors import CommandError

__all__ = ["QueryError", "printable"]

# C0 and C1 controls, line separators, direction marks, and surrogates that no terminal prints.
_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class QueryError(CommandError):
    """A question about stored runs failed for a reason that a user can act on."""


def printable(text: str) -> str:
    """Return one line of foreign text, escaped where it could move the reader's cursor.

    Names and metadata come from training scripts, and terminals obey what they print.
    """
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
