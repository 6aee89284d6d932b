"""Appends that an exception or a signal handler interrupts: nothing hangs, nothing is damaged."""

from __future__ import annotations

import errno
import fcntl
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from runwire.metrics.log import MetricLog
from runwire_disk.spool.format import SpoolError
from runwire_disk.spool.reader import FolderReader
from runwire_disk.spool.series_writer import Series
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from support.spools import meta, metric_log, new_writer


class StopError(Exception):
    """The exception of a user's trace function."""


@contextmanager
def at_line(code: CodeType, text: str, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` once, before the first line of a function that contains `text` runs."""
    lines, first = Path(code.co_filename).read_text().splitlines(), code.co_firstlineno
    wanted = next(n for n in range(first, len(lines)) if text in lines[n - 1])
    acted: list[bool] = []

    def step(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == wanted and not acted:
            acted.append(True)
            act()
        return step

    def follow(frame: FrameType, _event: str, _: Any) -> Any:
        return step if frame.f_code is code else None

    sys.settrace(follow)
    try:
        yield
    finally:
        sys.settrace(None)
    assert acted, "the line was not reached"


def stop() -> None:
    raise StopError


def texts(writer: SpoolWriter) -> list[str]:
    """Read the log records of a writer; fail on damage."""
    reader, found = FolderReader(writer.folder), []
    while cuts := reader.cut():
        assert not any(cut.damage for cut in cuts)
        found += [codec.decode(cut.value).text for cut in cuts if cut.kind == "log"]
    reader.close()
    return found


def points(writer: SpoolWriter) -> list[float]:
    """Read the values of a writer; fail on damage."""
    reader, found = FolderReader(writer.folder), []
    while cuts := reader.cut():
        assert not any(cut.damage for cut in cuts)
        found += [v for cut in cuts if cut.kind == "metric" for v in codec.decode(cut.value).value]
    reader.close()
    return found


def say(writer: SpoolWriter, text: str) -> int:
    fields = {"stream": "text", "name": "n", "level": "info", "step": 0, "text": text}
    return writer.append_json("log", fields)


@pytest.mark.parametrize("line", ["segment.words[offset >> 3] = commit", "self.state = (offset +"])
def test_append_after_an_interrupted_longer_one_is_whole(tmp_path: Path, line: str) -> None:
    """A body without its commit word is wiped, a committed record adopted, both by shorter ones."""
    writer = new_writer(tmp_path)
    say(writer, "before")
    with pytest.raises(StopError), at_line(Series.put.__code__, line, stop):
        say(writer, "interrupted" * 200)
    for number in range(40):  # over all that is left of the long one
        assert say(writer, f"after {number}") >= 0
    writer.close()
    found = [text for text in texts(writer) if not text.startswith("interrupted")]
    assert found == ["before", *(f"after {number}" for number in range(40))]


@pytest.mark.parametrize("line", ["words[offset >> 3] = _crc32", "series.state = (end"])
def test_short_calls_after_an_interrupted_long_one_are_whole(tmp_path: Path, line: str) -> None:
    """What the body of a long call left is overwritten; a call that was committed is kept."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    long = {f"m{number}": -1.5 for number in range(100)}
    for data in (long, {"short": 0.0}):
        log.log(data)
    with pytest.raises(StopError), at_line(MetricLog.log.__code__, line, stop):
        log.log(long)
    for number in range(40):
        log.log({"short": float(number)})
    writer.close()
    assert points(writer)[-40:] == [float(number) for number in range(40)]


def test_interrupted_roll_loses_no_record_of_the_next_segment(tmp_path: Path) -> None:
    """Interrupted between the new segment and its position, the next append opens another one."""
    writer = new_writer(tmp_path)
    long = "x" * 60_000
    for _ in range(4):
        say(writer, long)
    roll = Series._roll.__code__  # noqa: SLF001 - where the exception is to strike
    with pytest.raises(StopError), at_line(roll, "self.state = (FIRST", stop):
        say(writer, long)
    for number in range(5):
        say(writer, f"{number}{long}")
    writer.close()
    assert [text[0] for text in texts(writer)] == list("xxxx01234")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_lock_left_held_by_an_interrupt_is_replaced(tmp_path: Path, elsewhere: bool) -> None:
    """A lock whose holder was thrown out before its `try` keeps nobody waiting, in any thread."""
    writer = new_writer(tmp_path)
    with pytest.raises(StopError), at_line(SpoolWriter.append.__code__, "try:", stop):
        say(writer, "interrupted")
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(say(writer, "after")), daemon=True)
    if elsewhere:
        thread.start()
        thread.join(60.0)
    else:
        thread.run()
    assert done == [0]
    writer.sync()
    writer.close()
    assert texts(writer) == ["after"]


def test_append_of_a_signal_handler_inside_an_append_is_stored_after_it(tmp_path: Path) -> None:
    """A handler that appends to the series that it interrupted neither hangs nor overwrites."""
    writer = new_writer(tmp_path)
    answers: list[int] = []

    def handler(_signum: int, _frame: FrameType | None) -> None:
        answers.append(say(writer, "of the handler"))
        writer.sync()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        line = "segment.words[offset >> 3] = commit"
        act = lambda: signal.raise_signal(signal.SIGUSR1)  # noqa: E731 - one line
        with at_line(Series.put.__code__, line, act):
            say(writer, "interrupted")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [-1]
    assert writer.waiting == 0
    writer.close()
    assert texts(writer) == ["interrupted", "of the handler"]


def test_close_by_a_signal_handler_inside_an_append_ends_the_series(tmp_path: Path) -> None:
    """A handler that finishes stores its last record at once; what it interrupted is no damage."""
    writer = new_writer(tmp_path)

    def end() -> None:
        fields = {"stream": "text", "name": "n", "level": "info", "step": 0, "text": "last"}
        writer.append_json("log", fields, is_last=True)
        writer.close()

    line = "segment.words[offset >> 3] = commit"
    with pytest.raises(ValueError, match="released"), at_line(Series.put.__code__, line, end):
        say(writer, "interrupted")
    assert texts(writer) == ["last"]


def test_call_after_close_leaves_the_first_segment_alone(tmp_path: Path) -> None:
    """`log = run.log` kept over the end: the call is counted, and the spool stays as it was."""
    writer = new_writer(tmp_path)
    failures: list[tuple[str, str]] = []
    log = metric_log(writer, failures).log
    for step in range(3):
        log({"m": 1.0}, step)
    writer.close()
    before = {path.name: path.read_bytes() for path in writer.folder.iterdir()}
    log({"m": 2.0})
    log({"other": 2.0})
    assert say(writer, "late") == -1
    assert {path.name: path.read_bytes() for path in writer.folder.iterdir()} == before
    assert writer.dropped == {"finished": 3}
    assert [kind for kind, _ in failures] == ["log: finished"] * 2


def test_timeout_of_a_user_is_no_error_of_the_disk(tmp_path: Path) -> None:
    """A TimeoutError of a trace function or handler passes; nothing is refused because of it."""
    writer = new_writer(tmp_path)

    def time_out() -> None:
        raise TimeoutError("the user's own limit")

    code = Series.make_room.__code__
    with (
        pytest.raises(TimeoutError, match="own limit"),
        at_line(code, "self._roll(size)", time_out),
    ):
        say(writer, "interrupted")
    assert writer.dropped == {}
    assert say(writer, "after") == 0
    writer.close()


def test_folder_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a missing lock nor missing descriptors leave a hidden folder; the advice fits."""

    def refused(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def busy(_fd: int, _how: int) -> None:
        raise BlockingIOError

    for flock in (refused, busy):
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            with pytest.raises(SpoolError, match="lock"):
                new_writer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.open", _no_descriptors)
        with pytest.raises(SpoolError, match="ulimit -n") as caught:
            SpoolWriter.create(tmp_path, meta())
    assert "free space" not in str(caught.value)
    assert list((tmp_path / "spool").iterdir()) == []


def _no_descriptors(*_: Any, **__: Any) -> int:
    raise OSError(errno.EMFILE, "Too many open files")


def test_layout_number_of_an_interrupted_call_is_not_used_again(tmp_path: Path) -> None:
    """Names that were taught and not logged do not become the names of the next call."""
    writer = new_writer(tmp_path)
    log = metric_log(writer).log
    log({"a": 1.0})
    line = "self.state = (offset +"
    with pytest.raises(StopError), at_line(Series.put.__code__, line, stop):
        log({"b": 2.0})
    log({"c": 3.0})
    writer.close()
    reader = FolderReader(writer.folder)
    (cut,) = reader.cut()
    reader.close()
    batch = codec.decode(cut.value)
    pairs = zip(batch.name_idx, batch.value, strict=True)
    assert [(batch.names[index], value) for index, value in pairs] == [("a", 1.0), ("c", 3.0)]
