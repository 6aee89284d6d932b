"""Folders of the servers, the locks on them, and files that only this user may read.

`<root>/` holds fetched and built files, shared by all instances. An instance holds the state file,
the data and the logs of one set of running servers. The default instance is the root itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runwire_servers import ServersError

NATIVE = Path(__file__).resolve().parents[1]
ROOT_VARIABLE = "RUNWIRE_SERVERS_DIR"


def root_folder() -> Path:
    """Return RUNWIRE_SERVERS_DIR, else `.servers` in the checkout, as an absolute path."""
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).absolute() if named else NATIVE.parents[1] / ".servers"


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one instance."""

    root: Path
    instance: str = ""

    @property
    def home(self) -> Path:
        """The folder of the instance."""
        return self.root / "instances" / self.instance if self.instance else self.root

    @property
    def state(self) -> Path:
        """The state file: the servers of the instance and their processes."""
        return self.home / "state.json"

    @property
    def binaries(self) -> Path:
        """The folder of built programs, shared by all instances."""
        return self.root / "bin"

    def data(self, server: str) -> Path:
        """Return the folder that a server keeps across restarts."""
        return self.home / "data" / server

    def log(self, server: str, label: str) -> Path:
        """Return the log file of a process."""
        name = server if label == "1" else f"{server}-{label}"
        return self.home / "logs" / f"{name}.log"

    def make(self) -> None:
        """Create the folders, for this user only. Raises: ServersError."""
        try:
            for folder in (self.home, self.home / "data", self.home / "logs", self.binaries):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ServersError(
                f"cannot make {error.filename}: {error.strerror}; "
                f"set {ROOT_VARIABLE} to a folder that you can write to"
            ) from error


def find_places(instance: str = "") -> Places:
    """Return the folders of an instance. Raises: ServersError if the name is no folder name."""
    if instance and not re.fullmatch(r"[\w-]{1,64}", instance):
        raise ServersError(f"instance {instance!r}: use letters, digits, - and _")
    return Places(root_folder(), instance)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file.

    Blocks: until the process that holds it has finished.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_private(file: Path, text: str) -> None:
    """Replace the file's content in one step; only this user may read it."""
    part = file.with_name(file.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    part.replace(file)
