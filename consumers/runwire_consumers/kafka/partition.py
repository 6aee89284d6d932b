"""What a source knows of one partition that it reads, and what it keeps in the committed metadata.

The metadata of a committed offset is `<topic id>` or `<topic id> <first>-<last>`: the second form
is an intent, the exact range of the batch that is being written. The id tells a topic from one of
the same name that was deleted, whose offsets mean nothing here.
"""

from dataclasses import dataclass, field

from runwire_consumers.core.source import Pending, Record, Span


@dataclass(slots=True)
class Partition:
    """One assigned partition: the next offset to yield and, after a crash, the range to repeat."""

    topic: str
    number: int
    topic_id: str
    kind: str
    next_offset: int
    repeat: Span | None = None
    repeated: list[Record] = field(default_factory=list)
    is_complete: bool = False
    is_handed_out: bool = False
    log_end: int | None = None  # within the range to repeat: what the log had from there is gone
    held: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The partition as coordinates show it."""
        return f"{self.topic}/{self.number}"

    def token(self, span: Span) -> str:
        """Insert token of a range; the topic's id keeps a topic made anew apart."""
        return f"{self.topic_id}:{self.number}:{span.first}-{span.last}"

    def take(self, record: Record) -> list[Record]:
        """Take a fetched record; return what may be yielded now.

        Records of a range to repeat are gathered, later ones held until it is committed.
        """
        if record.offset < self.next_offset:
            return []  # fetched before a seek
        self.next_offset = record.offset + 1
        if self.repeat is None:
            return [record]
        if record.offset >= self.behind(self.repeat):
            self.is_complete = True
            self.held.append(record)
            return []
        self.repeated.append(record)
        self.is_complete = record.offset == self.repeat.last
        return []

    def behind(self, span: Span) -> int:
        """Return where the partition goes on after a range."""
        return span.last + 1 if self.log_end is None else min(span.last + 1, self.log_end)

    def misses_records(self, log_end: int) -> bool:
        """Whether a log that ends there cannot complete the range to repeat."""
        return self.repeat is not None and not self.is_complete and log_end <= self.repeat.last

    def cut(self, log_end: int) -> None:
        """Count what the log has left of the range to repeat as all of it."""
        self.log_end = log_end
        self.is_complete = True

    def pending(self) -> Pending | None:
        """Return the range to repeat once it is gathered, the first time."""
        if self.repeat is None or not self.is_complete or self.is_handed_out:
            return None
        self.is_handed_out = True
        stamp = max((record.append_at_ns for record in self.repeated), default=0)
        spans = {self.name: self.repeat}
        return Pending(self.token(self.repeat), spans, stamp, self.repeated)

    def committed(self) -> list[Record]:
        """Forget the range that was repeated; return what was held behind it."""
        held, self.held = self.held, []
        self.repeat, self.repeated, self.log_end = None, [], None
        self.is_complete = self.is_handed_out = False
        return held


def intent_text(topic_id: str, span: Span | None = None) -> str:
    """Return the metadata of a committed offset."""
    return topic_id if span is None else f"{topic_id} {span.first}-{span.last}"


def parse_intent(metadata: str | None) -> tuple[str, Span | None]:
    """Return (topic id, range to repeat); metadata of others is no id and no range."""
    topic_id, _, text = (metadata or "").partition(" ")
    first, _, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return topic_id, Span(int(first), int(last))
    return topic_id, None
