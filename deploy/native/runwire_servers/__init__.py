"""Real servers on this machine without Docker: fetched, built, started, watched and stopped by pid.

Standard library only, so that it runs with any Python 3.11 or newer before anything is installed.
"""

from __future__ import annotations


class ServersError(Exception):
    """A server cannot be built, started or stopped; the message says why and what to do next."""
