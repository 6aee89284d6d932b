"""Rows of records that any client may have written."""

from __future__ import annotations

from dataclasses import replace

from runwire_consumers.clickhouse.rows import dead_rows
from runwire_consumers.core.dead_letters import letter_of
from support.builders import AT_NS, bad_record


def test_letter_of_a_negative_size_is_stored() -> None:
    """Its block is built like any other: a worker that cannot build it would end at each start."""
    letter = replace(letter_of(bad_record(0), "test", at_ns=AT_NS), value_sha256="0" * 64)
    assert dead_rows([replace(letter, value_bytes=-1)]) == dead_rows([letter])
