"""The contract of dead letters: each is kept once, durably, up to a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumers.core.dead_letters import (
    LETTERS_FILE,
    DeadLetters,
    FileDeadLetters,
    MemoryDeadLetters,
    cut_letter,
    letter_of,
)
from runwire_consumers.core.errors import DeadLetterLimit
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_schemas.events import DeadLetter
from support.builders import AT_NS, bad_record
from support.topics import make_topics

Open = Callable[[int], DeadLetters]


@pytest.fixture(params=["memory", "file", "kafka"])
def open_letters(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same letters with a limit, as a restarted process would."""
    if request.param == "file":
        return lambda limit: FileDeadLetters(tmp_path / "dead-letters", limit=limit)
    if request.param == "kafka":
        prefix = request.getfixturevalue("topic_prefix")
        settings = replace(request.getfixturevalue("kafka").settings, topic_prefix=prefix)
        make_topics(settings, prefix, ["deadletter"])
        return lambda limit: KafkaDeadLetters(settings, limit=limit)
    shared: dict[str, DeadLetter] = {}
    removed: set[str] = set()
    return lambda limit: MemoryDeadLetters(shared, limit=limit, removed=removed)


def letter(offset: int) -> DeadLetter:
    return letter_of(bad_record(offset), f"reason {offset} with \n and ü", at_ns=AT_NS)


def test_letters_are_read_with_every_field_oldest_first(open_letters: Open) -> None:
    """Every field and byte of a letter survives, and letters are read oldest first."""
    letters = open_letters(10)
    for offset in (3, 1):
        letters.put(letter(offset))
    assert letters.flush() == 2
    assert open_letters(10).read() == [letter(3), letter(1)]


def test_letter_is_not_kept_before_the_flush(open_letters: Open) -> None:
    """A letter that was put and not flushed is unknown to a restarted process."""
    open_letters(10).put(letter(0))
    assert open_letters(10).count() == 0


def test_letters_with_the_same_coordinates_count_once(open_letters: Open) -> None:
    """Putting a letter again changes nothing, within one process and across restarts."""
    for _ in range(2):
        letters = open_letters(10)
        for _ in range(2):
            letters.put(letter(0))
            letters.flush()
        assert letters.count() == 1
    assert len(open_letters(10).read()) == 1


def test_removed_letter_is_gone_and_may_be_kept_again(open_letters: Open) -> None:
    """A removed letter frees room below the limit and is kept again if its record fails again."""
    letters = open_letters(3)
    for offset in range(3):
        letters.put(letter(offset))
    letters.flush()
    assert open_letters(3).remove({letter(1).id, "unknown"}) == 1
    letters = open_letters(3)
    assert (letters.count(), letters.read()) == (2, [letter(0), letter(2)])
    letters.put(letter(1))
    assert letters.flush() == 1
    assert open_letters(3).count() == 3


def test_letters_removed_for_good_leave_room_for_the_rest_of_their_batch(
    open_letters: Open,
) -> None:
    """After a final removal the batch that reached the limit is set aside from where it stopped."""
    batch = [letter(offset) for offset in range(5)]
    letters = open_letters(3)
    for one in batch:
        letters.put(one)
    with pytest.raises(DeadLetterLimit):
        letters.flush()
    kept = {one.id for one in open_letters(3).read()}
    assert open_letters(3).remove(kept, is_final=True) == 3
    letters = open_letters(3)
    assert letters.count() == 0
    for one in batch:
        letters.put(one)
    assert letters.flush() == 2
    assert [one.offset for one in open_letters(3).read()] == [3, 4]
    assert open_letters(3).remove({batch[3].id}) == 1
    assert open_letters(3).count() == 1


def test_cut_letter_has_head_size_and_hash(open_letters: Open) -> None:
    """Every field of a cut letter survives, and its id is that of the whole one."""
    whole = replace(letter(7), value=b"0123456789", key=b"k" * 300)
    letters = open_letters(3)
    letters.put(cut_letter(whole, 4))
    letters.flush()
    (kept,) = open_letters(3).read()
    assert (kept.id, kept.value, kept.whole_bytes, kept.is_cut) == (whole.id, b"0123", 10, True)
    assert kept.value_sha256 == hashlib.sha256(whole.value).hexdigest()
    assert not whole.is_cut


def test_letter_of_a_recreated_topic_has_another_id() -> None:
    """The same offset of a topic that was made anew is another record."""
    first, second = (replace(bad_record(0), topic_id=name) for name in ("a", "b"))
    ids = {letter_of(one, "bad", at_ns=AT_NS).id for one in (first, second, bad_record(0))}
    assert len(ids) == 3


def test_letter_ids_differ_for_different_coordinates() -> None:
    """A hundred offsets have a hundred ids."""
    ids = {letter(offset).id for offset in range(100)}
    assert len(ids) == 100


def test_letter_limit_counts_letters_of_earlier_processes(open_letters: Open) -> None:
    """Letters below the limit are kept; a letter that is kept already never exceeds it."""
    letters = open_letters(2)
    for offset in range(3):
        letters.put(letter(offset))
    with pytest.raises(DeadLetterLimit, match="RUNWIRE_WORKER_DEAD_LETTERS_MAX"):
        letters.flush()
    letters = open_letters(2)
    assert letters.count() == 2
    letters.put(letter(1))
    assert letters.flush() == 0
    letters.put(letter(9))
    with pytest.raises(DeadLetterLimit):
        letters.flush()
    assert {kept.offset for kept in open_letters(2).read()} == {0, 1}


def test_torn_line_loses_only_its_own_letter(tmp_path: Path) -> None:
    """A crash at any byte of an append leaves the letters before it, and room for the next."""
    folder = tmp_path / "letters"
    first = FileDeadLetters(folder)
    first.put(letter(0))
    first.flush()
    whole = (folder / LETTERS_FILE).read_bytes()
    first.put(letter(1))
    first.flush()
    data = (folder / LETTERS_FILE).read_bytes()
    for length in range(len(whole), len(data) - 1):
        (folder / LETTERS_FILE).write_bytes(data[:length])
        letters = FileDeadLetters(folder)
        assert letters.count() == 1
        letters.put(letter(1))
        letters.put(letter(2))
        assert letters.flush() == 2
        assert [kept.offset for kept in letters.read()] == [0, 1, 2]


def test_worker_notices_letters_removed_by_another_process(tmp_path: Path) -> None:
    """The command line replays letters while the worker runs; the worker's count follows."""
    worker = FileDeadLetters(tmp_path, limit=2)
    for offset in range(2):
        worker.put(letter(offset))
    worker.flush()
    assert FileDeadLetters(tmp_path).remove({letter(0).id, "unknown"}) == 1
    assert worker.count() == 1
    worker.put(letter(5))
    assert worker.flush() == 1
    assert [kept.offset for kept in worker.read()] == [1, 5]
