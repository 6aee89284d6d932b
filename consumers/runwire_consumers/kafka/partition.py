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
        if record.offset > self.repeat.last:
            self.is_complete = True
            self.held.append(record)
            return []
        self.repeated.append(record)
        self.is_complete = record.offset == self.repeat.last
        return []

    def reached_end(self, offset: int) -> bool:
        """Note the end of the log; true when it lies within the range to repeat."""
        if self.repeat is None or self.is_complete or offset > self.repeat.last:
            return False
        self.is_complete = True
        return True

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
        self.repeat, self.repeated = None, []
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
