"""The committed read position of a folder, kept beside the segments as cursor.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from runwire_disk.files import read_json, replace_json
from runwire_disk.spool.format import CURSOR_FILE, FORMAT_VERSION, SERIES


@dataclass(slots=True, kw_only=True)
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
    raw = read_json(folder / CURSOR_FILE)
    if raw is None:
        return Cursor()
    try:
        return Cursor(
            positions={name: int(raw["positions"].get(name, 0)) for name in SERIES},
            batch_seq=int(raw["batch_seq"]),
            accepted=int(raw["accepted"]),
            skip_seq=int(raw["skip_seq"]),
            skip_accepted=int(raw["skip_accepted"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Cursor()


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the committed position in one step. Raises: OSError."""
    replace_json(folder / CURSOR_FILE, {"format": FORMAT_VERSION, **asdict(cursor)})
