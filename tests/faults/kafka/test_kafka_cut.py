"""A log that ends within an announced batch: acknowledged records are lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.source import Pending, Record, Span
from runwire_consumers.kafka.source import KafkaSource
from runwire_schemas.topics import topic_name
from support.builders import record, run_event
from support.faults import wait_for
from support.servers import Cluster
from support.topics import group, make_topics, send

pytestmark = pytest.mark.engine


def offsets_of(source: KafkaSource, n: int) -> list[int]:
    """Poll until N records came and return their offsets."""
    found: list[Record] = []

    def is_all() -> bool:
        found.extend(source.poll(0.1))
        return len(found) >= n

    wait_for(f"{n} records", is_all)
    return [one.offset for one in found]


def test_worker_writes_the_rest_of_a_batch_that_the_log_lost(
    kafka: Cluster, topic_prefix: str
) -> None:
    """The records left of the batch are written; records that replace the lost ones are new."""
    settings = replace(kafka.settings, topic_prefix=topic_prefix)
    topic = topic_name("run", topic_prefix)
    make_topics(settings, topic_prefix, ["run"], partitions=1)
    events = [record(run_event(seq=seq), seq) for seq in range(9)]
    send(settings, topic, events[:6], partition=0)
    chosen = group(topic_prefix, ["run"])
    source = KafkaSource(settings, chosen)
    assert offsets_of(source, 6) == list(range(6))
    # As it looks after an unclean election: four more were announced than the log has.
    source.intend([{f"{topic}/0": Span(0, 9)}])
    source.close(Deadline(5.0))
    source = KafkaSource(settings, chosen)
    found: list[Pending] = []

    def is_gathered() -> bool:
        assert source.poll(0.1) == []
        found.extend(source.pending())
        return bool(found)

    wait_for("what is left of the batch", is_gathered)
    (pending,) = found
    send(settings, topic, events[6:], partition=0)
    for _ in range(5):
        assert source.poll(0.1) == []
    assert [one.offset for one in pending.records] == list(range(6))
    source.commit(pending.spans)
    assert offsets_of(source, 3) == [6, 7, 8]
    source.close(Deadline(5.0))
    source = KafkaSource(settings, chosen)
    assert offsets_of(source, 3) == [6, 7, 8]
    source.close(Deadline(5.0))
