"""Events: immutable facts that travel from a trainer or agent to the store.

One class per Avro record in `avro/`, with the same fields in the same order; the schema documents
each field. None in an optional field means "not reported", so that a later event can complete it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """A run started, changed or finished, as one writer sees it.

    Of all events of one (run, attempt, writer) the greatest `seq` wins, field by field.
    """

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    event: str
    reporter: str | None = None
    status: str | None = None
    status_reason: str | None = None
    exit_code: int | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    parent_run_id: str | None = None
    tags: dict[str, str] | None = None
    world_size: int | None = None
    last_step: int | None = None
    resumed_from_step: int | None = None
    accepted: int | None = None
    dropped: dict[str, int] | None = None
    environment: dict[str, str] | None = None
    summary: str | None = None
    metric_defs: str | None = None
    attempt_number: int | None = None
    first_attempt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamEvent:
    """One hyperparameter of a run; `value` is JSON text."""

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBatch:
    """Points of one writer, grouped by log call.

    `points_before` is what the writer had accepted before the first point, -1 where not counted.
    Shapes: call_* have one item per call, name_idx and value one per point, and
    sum(call_n) == len(name_idx) == len(value); name_idx points into names.
    """

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    batch_seq: int
    points_before: int = -1
    names: list[str]
    call_seq: list[int]
    call_step: list[int]
    call_at_ms: list[int]
    call_n: list[int]
    name_idx: list[int]
    value: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """An agent's view of one living writer; all counters are cumulative."""

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    last_step: int | None = None
    last_progress_at_ns: int | None = None
    phase: str
    accepted: int
    dropped: dict[str, int]
    host: str
    pid: int
    spool_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One line or text of a run; stream is stdout, stderr, text or sdk."""

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    step: int | None = None
    stream: str
    name: str
    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactEvent:
    """Something happened to an artifact; of one (run, artifact, event) the greatest `seq` counts.

    Units: `at_ns` and `version_at_ns` unix time, `duration_s` from the call until it was there.
    """

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    artifact: str
    event: str
    name: str
    type: str
    aliases: list[str] | None = None
    metadata: str | None = None
    files: int
    bytes: int
    sha256: str
    uri: str
    route: str
    version_at_ns: int | None = None
    reason: str | None = None
    duration_s: float | None = None
    manifest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEvent:
    """A rank saved its part of a checkpoint; what becomes of it say the artifact's events."""

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    seq: int
    at_ns: int
    artifact: str
    step: int
    kind: str
    world_size: int
    metrics: dict[str, float]
    is_best: bool
    bytes: int
    sha256: str
    uri: str
    duration_s: float
    blocked_s: float
    raw_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Piece `index` of `count` of one file of an artifact; `digest` is SHA-256 of the payload.

    `sha256` and `file_bytes` are of the whole file, the content that the pieces make.
    """

    project: str
    run_id: str
    artifact: str
    sha256: str
    file_bytes: int
    index: int
    count: int
    digest: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Something that could not be stored, kept aside with its coordinates and the reason.

    `id` follows from the coordinates, so storing one twice changes nothing. `topic_id` sets a topic
    apart from a deleted one of the same name. Of a value too large for a letter the beginning is
    kept, with the size and the SHA-256 of all of it.
    """

    id: str
    stream: str
    partition: str
    offset: int
    last_offset: int
    at_ns: int
    reason: str
    points: int
    key: bytes
    value: bytes
    project: str = ""
    run_id: str = ""
    topic_id: str = ""
    value_bytes: int = 0
    value_sha256: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning of the record's value is kept."""
        return bool(self.value_sha256)

    @property
    def whole_bytes(self) -> int:
        """Bytes of the record's whole value."""
        return self.value_bytes if self.is_cut else len(self.value)


Event = (
    RunEvent
    | ParamEvent
    | MetricBatch
    | Heartbeat
    | LogEvent
    | CheckpointEvent
    | ArtifactEvent
    | Chunk
    | DeadLetter
)

EVENTS: dict[str, type[Event]] = {
    "run": RunEvent,
    "param": ParamEvent,
    "metric": MetricBatch,
    "heartbeat": Heartbeat,
    "log": LogEvent,
    "deadletter": DeadLetter,
    "checkpoint": CheckpointEvent,
    "artifact": ArtifactEvent,
    "chunk": Chunk,
}
"""Event class by kind; the kinds are those of `topics.TOPICS`."""
