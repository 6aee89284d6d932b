"""Format of a spool folder: its files, the byte layout of segments, where it is read to.

Invariants, in the order in which a writer establishes them:

1. A folder appears under its final name only when meta.json and the held writer.lock are inside.
2. A segment appears under its final name only when its blocks are allocated (`posix_fallocate`,
   so a full disk is an error here and never SIGBUS later) and its header is complete.
3. A record's body is stored first; one aligned 8-byte store of its commit word makes it visible.
   A word of zero means "not written": a SIGKILL at any instruction leaves a prefix of records.
4. After the commit word the writer stores LAST, the offset of that record, in the header. Up to
   LAST every byte must parse; what does not is damage. Beyond it a bad record is a torn tail.
   LAST also makes progress readable in constant time: a heartbeat costs the trainer nothing.
5. A committed record never changes. Sequence numbers of a series grow by exactly one, so a gap is
   the number of records lost to damage.
6. Each segment stands alone: it repeats the layouts that its metric records refer to.
7. The writer appends; one reader (holder of reader.lock) advances and deletes.

    segment := header(256 bytes) record* zero*
    record  := word(u64) seq(u64) payload padding-to-8
    word    := crc32 << 32 | kind << 24 | length
               length = 8 + len(payload); crc over seq and payload, started at kind << 24 | length

Everything is little-endian.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from runwire_disk.files import NO_DESCRIPTORS, replace_json
from runwire_disk.interrupts import reraise_interrupt
from runwire_schemas.connections.secret import facts_digest
from runwire_schemas.errors import RunwireError

FORMAT_VERSION: Final = 1
# Destinations of a folder: the embedded worker of this node, or brokers.
LOCAL: Final = "local"
KAFKA: Final = "kafka"
MAGIC: Final = b"RWSEG\x00\x00\x01"

SERIES: Final = ("lifecycle", "metric", "log", "system")
SEGMENT_SUFFIX: Final = ".seg"
META_FILE: Final = "meta.json"
WRITER_LOCK: Final = "writer.lock"
READER_LOCK: Final = "reader.lock"
CURSOR_FILE: Final = "cursor.json"
ENDED_FILE: Final = "ended.json"
# Records that no broker takes, kept for a person.
OVERSIZED_GLOB: Final = "oversized-*.bin"

HEADER_BYTES: Final = 256
WORD_BYTES: Final = 8
RECORD_BYTES_MAX: Final = (1 << 24) - 1  # the length field has 24 bits
# Small first segment so that thousands of writers fit a disk; growth bounds the number of files.
SEGMENT_BYTES_MIN: Final = 256 * 1024
SEGMENT_BYTES_MAX: Final = 16 * 1024 * 1024
SEGMENT_GROWTH: Final = 4

# Header words that change while the segment is live, as indexes into the file seen as u64[].
AWAITED_WORD: Final = 8  # accepted points that a caller waits for, until the cursor has them
LAST_WORD: Final = 16
DROPPED_WORD: Final = 17
PHASE_OFFSET: Final = 216
PHASE_BYTES: Final = 40
# The last two count points that had been accepted before.
DROP_REASONS: Final = (
    "quota",
    "disk_full",
    "unresolved",
    "not_a_number",
    "too_large",
    "unwritable",
    "finished",
    "other",
    "evicted",
    "spool_lost",
)
DROPPED_AFTER_ACCEPTED: Final = DROP_REASONS[-2:]

# Record kinds.
METRIC: Final = 1
LAYOUT: Final = 2
WIDE: Final = 3
RUN: Final = 16
PARAM: Final = 17
LOG: Final = 18
HEARTBEAT: Final = 19
CHECKPOINT: Final = 20
ARTIFACT: Final = 21
JSON_KINDS: Final = {
    RUN: "run",
    PARAM: "param",
    LOG: "log",
    HEARTBEAT: "heartbeat",
    CHECKPOINT: "checkpoint",
    ARTIFACT: "artifact",
}
KINDS: Final = frozenset((METRIC, LAYOUT, WIDE, *JSON_KINDS))
KIND_SERIES: Final = {
    "run": ("lifecycle", RUN),
    "param": ("lifecycle", PARAM),
    "log": ("log", LOG),
    "heartbeat": ("system", HEARTBEAT),
    "checkpoint": ("lifecycle", CHECKPOINT),
    "artifact": ("lifecycle", ARTIFACT),
}

_HEADER = struct.Struct("<8s16sQQQqII")  # magic writer number base_seq base_accepted at size crc
HEADER_STATIC_BYTES: Final = _HEADER.size
RECORD_HEAD = struct.Struct("<QQ")  # word seq
# seq call_seq at_ns step accepted layout n, then n doubles: a whole metric record body.
METRIC_HEAD = struct.Struct("<QQqqQII")

if sys.byteorder != "little":  # pragma: no cover - no such machine to test on
    raise ImportError("runwire's spool needs a little-endian machine")


class SpoolError(RunwireError, RuntimeError):
    """A spool folder or segment cannot be used; the message says what to do."""


class SpoolBusy(SpoolError):  # noqa: N818 - a state of the folder, not a fault
    """Another process holds the lock of this folder; try again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Identity of one writer: the content of meta.json."""

    writer: str
    role: str
    project: str
    run_id: str
    attempt: str
    rank: int
    world_size: int
    host: str
    boot_id: str
    pid_ns: str
    pid: int
    started_at_ns: int
    # LOCAL or KAFKA; for Kafka the destination's public facts: addresses, names of secrets.
    route: str = LOCAL
    destination: dict[str, Any] = field(default_factory=dict)
    mode: str = "online"
    sdk: str = ""
    worker_of: int | None = None
    format: int = FORMAT_VERSION


@dataclass(slots=True, kw_only=True)
class Cursor:
    """Committed read position of a folder, the content of cursor.json: next number per series.

    `batch_seq` numbers the next metric cut; `accepted` counts the points before the position.
    `skip_seq` and `skip_accepted` are the writer's: metric records before it gave way to newer
    ones (quota) and were counted as dropped: the reader skips them. They are kept apart from the
    positions, which alone tell a restarted worker whether a batch in doubt was stored.
    """

    positions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SERIES, 0))
    batch_seq: int = 0
    accepted: int = 0
    skip_seq: int = 0
    skip_accepted: int = 0


_CURSOR_FIELDS: Final = tuple(row.name for row in fields(Cursor))


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Fixed part of a segment's header."""

    writer: bytes
    number: int
    base_seq: int
    base_accepted: int
    created_at_ns: int
    size: int

    def pack(self) -> bytes:
        """Return the header's static bytes with their CRC."""
        fields = (MAGIC, self.writer, self.number, self.base_seq, self.base_accepted)
        tail = (self.created_at_ns, self.size)
        crc = zlib.crc32(_HEADER.pack(*fields, *tail, 0)[:-4])
        return _HEADER.pack(*fields, *tail, crc)

    @classmethod
    def unpack(cls, data: bytes) -> SegmentHeader:
        """Parse a header. Raises: SpoolError when it is damaged or of another version."""
        if len(data) < HEADER_STATIC_BYTES:
            raise SpoolError("segment is shorter than its header")
        magic, writer, number, base_seq, base_accepted, at_ns, size, crc = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise SpoolError("segment header has no magic: it was overwritten or is no segment")
        if zlib.crc32(data[: HEADER_STATIC_BYTES - 4]) != crc:
            raise SpoolError("segment header fails its CRC")
        return cls(writer, number, base_seq, base_accepted, at_ns, size)


def segment_name(series: str, number: int) -> str:
    """Return the file name of a segment; lexical order is numeric order."""
    return f"{series}-{number:08d}{SEGMENT_SUFFIX}"


def oversized_name(series: str, seq: int) -> str:
    """Return the file name of a record that no broker takes; `OVERSIZED_GLOB` matches it."""
    return f"oversized-{series}-{seq}.bin"


def padded(length: int) -> int:
    """Round a record's body length up to the 8-byte grid of commit words."""
    return (length + 7) & ~7


def commit_word(kind: int, body: bytes) -> int:
    """Return the word that makes `body` (seq + payload) visible."""
    low = kind << 24 | len(body)
    return zlib.crc32(body, low) << 32 | low


def destination_of(meta: Meta) -> str:
    """Return "local", or for the Kafka route the same word as `KafkaSettings.destination`."""
    if meta.route != KAFKA:
        return LOCAL
    return facts_digest(meta.destination)


def read_cursor(folder: Path) -> Cursor:
    """Return the committed position; the beginning before the first commit or when unreadable.

    Reading again from the beginning is harmless: the natural key of a point counts it once.
    Raises: OSError when this process has no file descriptor left, which tells nothing.
    """
    try:
        raw = json.loads((folder / CURSOR_FILE).read_bytes())
    except (OSError, ValueError) as error:
        reraise_interrupt(error)
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            raise
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
    fields = {name: getattr(cursor, name) for name in _CURSOR_FIELDS}  # asdict takes ten times it
    replace_json(folder / CURSOR_FILE, {"format": FORMAT_VERSION, **fields})
