"""What can go wrong, as sentences."""

from __future__ import annotations


class ServersError(Exception):
    """A server cannot be had, started or stopped; the message says why and what to do next."""
