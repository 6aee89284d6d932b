"""Paths of the files that runwire keeps on this machine."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def state_dir(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds everything runwire keeps on disk; it is not created here.

    Source: `explicit`, else $RUNWIRE_DIR, else $XDG_STATE_HOME/runwire, else
    ~/.local/state/runwire. Empty values count as not given.
    """
    if explicit is not None and os.fspath(explicit):
        return _absolute(explicit)
    chosen = os.environ.get("RUNWIRE_DIR")
    if chosen:
        return _absolute(chosen)
    xdg = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules: a relative XDG_STATE_HOME is invalid and is ignored.
    if Path(xdg).is_absolute():
        return Path(xdg) / "runwire"
    return _absolute("~/.local/state/runwire")


def pin_state_dir(environ: MutableMapping[str, str]) -> None:
    """Make a relative $RUNWIRE_DIR absolute: later it, or a child's, means another folder."""
    chosen = environ.get("RUNWIRE_DIR", "")
    if chosen.strip() and "\0" not in chosen and not Path(chosen).is_absolute():
        environ["RUNWIRE_DIR"] = str(_absolute(chosen))


def spool_dir(root: Path) -> Path:
    """Return the folder whose entries are the spool folders of single writers."""
    return root / "spool"


def outbox_dir(root: Path) -> Path:
    """Return the folder whose entries are artifacts that wait for upload."""
    return root / "outbox"


def agents_dir(root: Path) -> Path:
    """Return the folder of the node agents' locks, states and logs."""
    return root / "agents"


def embedded_dir(root: Path) -> Path:
    """Return the folder of the embedded engine, its worker and their journal."""
    return root / "embedded"


def letters_dir(root: Path) -> Path:
    """Return the folder of the embedded worker's dead letters."""
    return embedded_dir(root) / "dead-letters"


def connection_file(root: Path) -> Path:
    """Return the file that holds the address of the embedded engine."""
    return embedded_dir(root) / "connection.json"


def _absolute(path: str | os.PathLike[str]) -> Path:
    # absolute(), not resolve(): a link that a user made stays visible in messages.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - unknown ~user stays as is
