"""The committed read position of a folder, kept beside the segments as cursor.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runwire_disk.spool.format import CURSOR_FILE, FORMAT_VERSION, SERIES


@dataclass(slots=True)
class Cursor:
    """What the reader has stored elsewhere: next sequence number per series.

    `batch_seq` numbers the next metric cut; `accepted` counts the points before the position.
    `skip_seq` and `skip_accepted` are the writer's: metric records before it gave way to newer
    ones (quota), were counted as dropped and are not to be looked for. They stay apart from the
    positions, which alone tell a restarted worker whether a batch in doubt was stored.
    """

    positions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SERIES, 0))
    batch_seq: int = 0
    accepted: int = 0
    skip_seq: int = 0
    skip_accepted: int = 0


def read_cursor(folder: Path) -> Cursor:
    """Return the committed position; the beginning before the first commit or when unreadable.

    Reading again from the beginning is harmless: the natural key of a point counts it once.
    """
    try:
        raw = json.loads((folder / CURSOR_FILE).read_text("utf-8"))
        positions = {name: int(raw["positions"].get(name, 0)) for name in SERIES}
        counts = (int(raw["batch_seq"]), int(raw["accepted"]))
        return Cursor(positions, *counts, int(raw["skip_seq"]), int(raw["skip_accepted"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Cursor()


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the committed position in one step. Raises: OSError."""
    fresh = folder / (CURSOR_FILE + ".new")
    fresh.write_text(json.dumps({"format": FORMAT_VERSION, **asdict(cursor)}), "utf-8")
    fresh.replace(folder / CURSOR_FILE)
