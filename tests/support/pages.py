"""A client of the workers' pages."""

from __future__ import annotations

import urllib.error
import urllib.request


def fetch(port: int, page: str) -> tuple[int, str]:
    """Status and body of a page on loopback."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
