"""The worker and records whose schema only a registry knows, while that does not answer."""

from __future__ import annotations

import pytest

from runwire_consumers.core.batch import Decoded, decode_record
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.pieces import WHOLE
from runwire_consumers.core.source import Pending, Record, Span
from support.builders import AT_NS, Bench, metric_record

WAIT_S = 60.0  # the default of RUNWIRE_WORKER_REGISTRY_WAIT_S


class Registry:
    """Decodes everything but the records of some offsets, which it knows from `up_at_s` on."""

    def __init__(self, bench: Bench, foreign: set[int], up_at_s: float = 1e9) -> None:
        self.bench, self.foreign, self.up_at_s = bench, foreign, up_at_s
        self.asked_s: list[float] = []

    def decode(self, record: Record) -> Decoded:
        now_s = self.bench.clock.monotonic_s()
        if record.offset in self.foreign and now_s < self.up_at_s:
            self.asked_s.append(now_s)
            raise Retryable(2.0, "the registry does not answer")
        return decode_record(record)


def test_foreign_record_without_a_registry_becomes_a_letter_after_the_wait() -> None:
    """The neighbours of all partitions are stored; the letter keeps the bytes and the reason."""
    bench = Bench()
    bench.log.append([metric_record(0), metric_record(1), metric_record(2)])
    bench.log.append([metric_record(0, partition="q/metric")])
    registry = Registry(bench, {1})
    assert bench.start(decode=registry.decode).run() == 0
    (letter,) = bench.letters.values()
    assert letter.value == metric_record(1).value
    assert "the registry does not answer" in letter.reason
    assert bench.store.points == 6
    assert bench.log.committed == {"p/metric": 3, "q/metric": 1}
    assert WAIT_S <= registry.asked_s[-1] - registry.asked_s[0] < 2 * WAIT_S
    assert bench.health.reason == ""


def test_registry_that_answers_within_the_wait_costs_no_record() -> None:
    """A short outage is waited for, and every record is stored."""
    bench = Bench()
    bench.log.append([metric_record(0), metric_record(1)])
    registry = Registry(bench, {0, 1}, up_at_s=WAIT_S / 2)
    assert bench.start(decode=registry.decode).run() == 0
    assert (bench.store.points, bench.letters) == (4, {})


def test_second_foreign_record_of_an_outage_waits_no_more() -> None:
    """The wait is one for the outage: a stream of foreign records stops nobody for long."""
    bench = Bench()
    bench.log.append([metric_record(offset) for offset in range(10)])
    registry = Registry(bench, {1, 3, 5, 7})
    assert bench.start(decode=registry.decode).run() == 0
    assert len(bench.letters) == 4
    assert bench.store.points == 12
    assert registry.asked_s[-1] - registry.asked_s[0] < 2 * WAIT_S


@pytest.mark.parametrize("has_letter", [False, True])
def test_record_of_a_batch_in_pieces_has_the_outcome_of_the_first_time(*, has_letter: bool) -> None:
    """Its neighbours keep their places: another outcome would drop them with tokens in use."""
    bench = Bench()
    records = [metric_record(offset) for offset in range(3)]
    bench.log.append(records)
    pieces = WHOLE.cut("metrics", 0, 2)
    bench.log.intent = Pending("memory:1", {"p/metric": Span(0, 2)}, AT_NS, (), pieces)
    if has_letter:
        letter = letter_of(records[0], "no registry", at_ns=AT_NS)
        bench.letters[letter.id] = letter
    registry = Registry(bench, {0}, up_at_s=5 * WAIT_S)
    assert bench.start(decode=registry.decode).run() == 0
    assert bench.store.points == (4 if has_letter else 6)
    assert len(bench.letters) == int(has_letter)
    assert (bench.clock.monotonic_s() > 5 * WAIT_S) is not has_letter


def test_unread_record_of_a_batch_in_pieces_stays_a_letter_when_the_registry_is_back() -> None:
    """Read now, it would move its neighbours to other places, and a token in use drops them."""
    bench = Bench()
    bench.log.append([metric_record(offset) for offset in range(3)])
    assert bench.start(decode=Registry(bench, {0}).decode).run() == 0
    assert (bench.store.points, len(bench.letters)) == (4, 1)

    after = Bench(letters=dict(bench.letters))
    after.log.append([metric_record(offset) for offset in range(3)])
    pieces = WHOLE.cut("metrics", 0, 2)
    after.log.intent = Pending("memory:1", {"p/metric": Span(0, 2)}, AT_NS, (), pieces)
    assert after.start().run() == 0
    assert after.store.points == 4
    assert after.letters == bench.letters
