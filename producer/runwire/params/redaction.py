"""Secrets taken out of command lines and messages before they are recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["redact_argv", "redact_text"]

MASK = "[redacted]"
_SECRET_WORDS = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|credentials?|auth(?:orization)?"
)
_NAME = re.compile(rf"(?:^|[-_.])(?:{_SECRET_WORDS})(?:$|[-_.])", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    rf"((?:\b|[-_.])(?:{_SECRET_WORDS})[\"']?\s*[=:]\s*[\"']?)(?:bearer\s+)?([^\s\"',;&}}]+)",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
# Tokens that announce themselves by their prefix.
_KNOWN_TOKENS = re.compile(
    r"\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|ASIA)[A-Za-z0-9_\-]{12,}"
)
# Option names that hold a secret word and no secret.
_HARMLESS = re.compile(
    r"(?:num|max|min|n|vocab|pad|eos|bos|unk|mask|sep|cls|special|new)[-_]?tokens?|tokens?[-_](?:per|id|count|len)"
    r"|tokens?$(?<=tokens)|tokenizer",
    re.IGNORECASE,
)


def redact_text(text: str) -> str:
    """`text` with passwords in URLs, assignments to secret names and known tokens masked."""
    text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    text = _KNOWN_TOKENS.sub(MASK, text)
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Command line with `--password=x`, `--password x`, `token=x` and secrets in URLs masked."""
    redacted: list[str] = []
    mask_next = False
    for word in argv:
        if mask_next and not word.startswith("-"):
            redacted.append(MASK)
            mask_next = False
            continue
        mask_next = False
        name, equals, _value = word.partition("=")
        secret = bool(_NAME.search(name.lstrip("-"))) and not _HARMLESS.search(name)
        if secret and equals:
            redacted.append(f"{name}={MASK}")
            continue
        mask_next = secret and word.startswith("-")
        redacted.append(redact_text(word))
    return redacted
