"""The line log: cut at every byte, flipped at every byte, killed between two system calls."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.line_log import LINE_BYTES_MIN, LineLog, LogContent, read_log

FACTS: list[Any] = [[0, 9, 0], {"k": "intent", "n": 1, "cuts": [["a", 1]]}, [7], {"k": "done"}]


def write_facts(path: Path, facts: list[Any] = FACTS) -> list[int]:
    """Write a log one append at a time; return its size before each of them, and at the end."""
    log = LineLog(path)
    log.open()
    sizes = [log.size]
    for fact in facts:
        log.append([fact])
        sizes.append(log.size)
    log.close()
    return sizes


def test_bytes_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    """The line format on disk is fixed: crc32 in hex, space, compact JSON, newline."""
    path = tmp_path / "cuts.log"
    path.write_bytes(b'ca1db48e [0,9,0]\n65855041 {"k":"done","n":1}\n')
    assert read_log(path) == LogContent(facts=([0, 9, 0], {"k": "done", "n": 1}))
    write_facts(tmp_path / "fresh.log", [[0, 9, 0], {"k": "done", "n": 1}])
    assert (tmp_path / "fresh.log").read_bytes() == path.read_bytes()


def test_facts_come_back_in_order_over_reopening(tmp_path: Path) -> None:
    """What was appended before and after an opening is one sequence; no file reads as empty."""
    path = tmp_path / "cuts.log"
    assert read_log(path) == LogContent()
    write_facts(path)
    log = LineLog(path)
    log.open()
    log.append([[1], [2]])
    log.close()
    assert read_log(path) == LogContent(facts=(*FACTS, [1], [2]))


def test_log_cut_at_every_byte_holds_every_whole_line(tmp_path: Path) -> None:
    """A power cut or kill between write and sync leaves any prefix: a prefix of the facts."""
    path = tmp_path / "cuts.log"
    sizes = write_facts(path)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        content = read_log(path)
        whole = sum(size <= length for size in sizes[1:])
        assert list(content.facts) == FACTS[:whole]
        misses_newline = length + 1 in sizes[1:]
        assert content.unended == (FACTS[whole] if misses_newline else None)
        assert content.is_torn == (length not in sizes and not misses_newline)
        assert content.damaged == content.facts_lost_max == 0
        assert content.needs_rewrite == (length not in sizes)


def test_flip_of_every_bit_loses_its_line_alone(tmp_path: Path) -> None:
    """Damage is counted, and `facts_lost_max` is never less than the facts that are gone."""
    path = tmp_path / "cuts.log"
    sizes = write_facts(path)
    data = path.read_bytes()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            content = read_log(path)
            is_last_newline = position == len(data) - 1
            assert content.unended is None
            if is_last_newline:
                assert list(content.facts) == FACTS
                assert content.needs_rewrite
                continue
            hit = sum(size <= position for size in sizes[1:])
            joined = position + 1 == sizes[hit + 1]  # the newline: two lines are one now
            kept = FACTS[:hit] + FACTS[hit + 1 + joined :]
            assert list(content.facts) == kept
            assert content.damaged >= 1
            assert content.facts_lost_max >= len(FACTS) - len(kept)
            assert content.needs_rewrite


def test_smallest_line_bounds_the_facts_of_a_damaged_stretch(tmp_path: Path) -> None:
    """However many newlines are gone, the bound holds for the shortest facts there are."""
    path = tmp_path / "cuts.log"
    sizes = write_facts(path, [n % 10 for n in range(50)])
    assert sizes[1] == LINE_BYTES_MIN
    path.write_bytes(path.read_bytes().replace(b"\n", b"\x00")[:-1] + b"\n")
    content = read_log(path)
    assert (content.facts, content.damaged) == ((), 1)
    assert content.facts_lost_max >= 50


def test_append_that_fails_half_way_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk after half a line: the half goes, and the next append is readable."""
    path = tmp_path / "cuts.log"
    write_facts(path)
    log = LineLog(path)
    log.open()
    write, calls = os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.ENOSPC, "no space left")
        return write(fd, bytes(data)[:7])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            log.append([[1, 2, 3]])
    assert read_log(path) == LogContent(facts=tuple(FACTS))
    log.append([[4, 5, 6]])
    log.close()
    assert read_log(path) == LogContent(facts=(*FACTS, [4, 5, 6]))


def test_append_is_written_whole_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fact counts when `append` returns: its bytes are handed over, then forced, once."""
    path = tmp_path / "cuts.log"
    log = LineLog(path)
    log.open()
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "fdatasync", lambda _fd: seen.append(read_log(path).facts))
    log.append([[1], [2]])
    assert seen == [([1], [2])]
    log.append([[3]], sync=False)
    assert len(seen) == 1
    log.close()


class Killed(BaseException):
    """A SIGKILL at a system call: nothing after it happens."""


def kill(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "folder"])
def test_kill_inside_a_rewrite_leaves_the_old_or_the_new_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before the rename the old facts are read, after it the new ones; the next rewrite works."""
    path = tmp_path / "cuts.log"
    write_facts(path)
    log = LineLog(path)
    log.open()
    with monkeypatch.context() as patch:
        if call == "folder":
            patch.setattr("runwire_disk.line_log.sync_folder", kill)
        else:
            patch.setattr(Path if call == "replace" else os, call, kill)
        with pytest.raises(Killed):
            log.rewrite([["new"]])
    log.close()
    assert list(read_log(path).facts) == ([["new"]] if call == "folder" else FACTS)
    again = LineLog(path)
    again.rewrite([["newer"]])
    again.append([[1]])
    again.close()
    assert read_log(path) == LogContent(facts=(["newer"], [1]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cuts.log"]


def test_log_is_appended_to_after_a_failed_rewrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk during a compaction costs the compaction: the old file is still written to."""
    path = tmp_path / "cuts.log"
    log = LineLog(path)
    log.open()
    log.append([[1]])

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            log.rewrite([[2]])
    log.append([[3]])
    log.close()
    assert list(read_log(path).facts) == [[1], [3]]


def test_append_goes_to_the_new_file_when_its_folder_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the rename the old file has no name: what is appended must be found by a restart."""
    path = tmp_path / "cuts.log"
    log = LineLog(path)
    log.open()

    def broken(_folder: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("runwire_disk.line_log.sync_folder", broken)
        with pytest.raises(OSError, match="input/output"):
            log.rewrite([["new"]])
    log.append([[1]])
    log.close()
    assert list(read_log(path).facts) == [["new"], [1]]


def test_new_log_is_there_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is forced to the device once, when the file is made."""
    synced: list[Path] = []
    monkeypatch.setattr("runwire_disk.line_log.sync_folder", synced.append)
    for _ in range(2):
        log = LineLog(tmp_path / "cuts.log")
        log.open()
        log.close()
    assert synced == [tmp_path]
