"""Folders of the servers and the locks on them.

`<root>/` holds what was fetched and built, shared by all; an instance holds the state file, the
data and the logs of one set of running servers. The default instance is the root itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runwire_servers.errors import ServersError

NATIVE = Path(__file__).resolve().parents[1]
ROOT_VARIABLE = "RUNWIRE_SERVERS_DIR"


def root_folder() -> Path:
    """RUNWIRE_SERVERS_DIR, else `.servers` in the checkout; absolute."""
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
        """The file that says what runs."""
        return self.home / "state.json"

    @property
    def binaries(self) -> Path:
        """What was built, shared by all instances."""
        return self.root / "bin"

    def data(self, server: str) -> Path:
        """What a server keeps across restarts."""
        return self.home / "data" / server

    def log(self, server: str, label: str) -> Path:
        """Where a process writes what it has to say."""
        name = server if label == "1" else f"{server}-{label}"
        return self.home / "logs" / f"{name}.log"

    def make(self) -> None:
        """Make the folders, for this user alone. Raises: ServersError."""
        try:
            for folder in (self.home, self.home / "data", self.home / "logs", self.binaries):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ServersError(
                f"cannot make {error.filename}: {error.strerror}; "
                f"set {ROOT_VARIABLE} to a folder that you may write to"
            ) from error


def find_places(instance: str = "") -> Places:
    """Raises: ServersError for a name that is no folder name."""
    if instance and not re.fullmatch(r"[\w-]{1,64}", instance):
        raise ServersError(f"instance {instance!r}: use letters, digits, - and _")
    return Places(root_folder(), instance)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Be the only process that changes what the file stands for.

    Blocks: until the one before has finished.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
