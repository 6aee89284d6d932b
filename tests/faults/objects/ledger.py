"""Ledger of a trainer: one line before each call and one after it returned, synced.

Lines are JSON. The ledger knows nothing of outbox, agent and store; the verdict compares.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The words of `ArtifactRef.route` that mean: it goes somewhere.
TAKEN = ("direct", "kafka", "reference")


@dataclass
class Call:
    """One call; `files` is [SHA-256, size] by path, `artifact` the id once it returned."""

    name: str
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    artifact: str = ""
    route: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """Whether the call returned a route, which promises that the artifact arrives."""
        return self.route in TAKEN


class Ledger:
    """The trainer's side: appends, and syncs before it returns. Threads: one."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def before(self, name: str, files: dict[str, tuple[str, int]]) -> None:
        self._note({"name": name, "files": files})

    def after(self, name: str, artifact: str, route: str) -> None:
        self._note({"name": name, "artifact": artifact, "route": route})

    def _note(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fsync(self._file)


def read(paths: list[Path]) -> dict[str, Call]:
    """Return all calls of these ledgers by the name of the artifact, which is used once only."""
    calls: dict[str, Call] = {}
    for path in paths:
        for text in path.read_text().splitlines():
            line = json.loads(text)
            call = calls.setdefault(line["name"], Call(line["name"]))
            if "files" in line:
                assert not call.files, f"{call.name} was used twice: the test is wrong"
                call.files = {p: (sha256, size) for p, (sha256, size) in line["files"].items()}
            else:
                call.artifact, call.route = line["artifact"], line["route"]
    return calls
