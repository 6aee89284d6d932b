"""HTTP to this machine: never through the proxy that HTTP_PROXY names for the world outside.

A proxy cannot reach the loopback address of its client, and NO_PROXY is often missing.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

__all__ = ["is_loopback", "open_here", "opener_for"]

_NAME: Final = "localhost"


def is_loopback(host: str) -> bool:
    """Return whether a host of a URL is this machine, by its name or address alone."""
    name = host.strip("[]").rstrip(".").lower()
    if name == _NAME or name.endswith("." + _NAME):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def opener_for(host: str, *handlers: Any) -> OpenerDirector:
    """Return an opener with these handlers: without proxies for this machine."""
    direct = [ProxyHandler({})] if is_loopback(host) else []
    return build_opener(*handlers, *direct)


def open_here(request: Request | str, *, timeout_s: float) -> Any:
    """Return a local server's answer. Blocks: at most `timeout_s`. Raises: OSError."""
    return opener_for(_NAME).open(request, timeout=timeout_s)
