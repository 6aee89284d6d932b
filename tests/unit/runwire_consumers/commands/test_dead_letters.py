"""`runwire dead-letters` on the letters of one folder: what is listed, chosen and deleted."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runwire import cli
from runwire_consumers.core.dead_letters import FileDeadLetters, letter_of
from runwire_disk.paths import letters_dir
from runwire_schemas import codec
from runwire_schemas.events import DeadLetter
from support.builders import AT_NS, bad_record, param_event
from support.shipping import kafka_writer

pytestmark = pytest.mark.fault


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with letters of two sources and ages, and an oversized record of an agent."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    old = [letter(0), letter(1), letter(2, partition="other/log", stream="log")]
    kept = FileDeadLetters(letters_dir(tmp_path))
    for one in (*old, replace(letter(3), at_ns=time.time_ns())):
        kept.put(one)
    kept.flush()
    writer = kafka_writer(tmp_path)
    (writer.folder / "oversized-lifecycle-4.bin").write_bytes(codec.encode(param_event()))
    writer.close()
    return tmp_path


def letter(offset: int, *, partition: str = "p/metric", stream: str = "metric") -> DeadLetter:
    record = replace(bad_record(offset, partition=partition), stream=stream)
    return letter_of(record, "cannot be decoded", at_ns=AT_NS)


def command(root: Path, *words: str) -> int:
    return cli.main(["dead-letters", *words, "--dir", str(root)])


def read_list(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    command(root, "ls", "--json", *words)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_json_list_has_the_oversized_records_of_the_node(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script sees what a person sees, with the same fields in every row."""
    rows = read_list(root, capsys)
    (file,) = [row for row in rows if row["file"]]
    assert len(rows) == 5
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert (file["stream"], file["offset"]) == ("param", 4)
    assert file["value_bytes"] == Path(file["file"]).stat().st_size
    assert command(root, "ls") == 0
    text = capsys.readouterr().out
    assert all((row["file"] or row["id"][:16]) in text for row in rows)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--all"], []),
        (["--source", "metric"], ["log", "param"]),
        (["--source", "other/log"], ["metric", "metric", "metric", "param"]),
        (["--source", "p", "--before", "7d"], ["log", "metric", "param"]),
        (["--before", "2100-01-01"], []),
        (["--before", "2024-01-01T00:00+02:00"], ["metric", "param"]),
        ([letter(0).id[:9]], ["log", "metric", "metric", "param"]),
        ([letter(0).id.upper(), "--source", "metric"], ["log", "metric", "metric", "param"]),
    ],
    ids=lambda value: " ".join(value) or "none",
)
def test_rm_deletes_exactly_the_chosen_letters(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], left: list[str]
) -> None:
    """All conditions of the command line have to fit; files of the node are included."""
    assert command(root, "rm", *words, "--yes") == 0
    assert "deleted" in capsys.readouterr().out
    assert sorted(row["stream"] for row in read_list(root, capsys)) == left


REFUSALS = {
    "nothing named": ([], 2, "name letters, or choose them with --source or --before, or --all"),
    "nobody to ask": (["--all"], 2, "give --yes"),
    "all and some": (["--all", "--before", "7d", "--yes"], 2, "--all means every letter"),
    "no time": (["--before", "soon", "--yes"], 2, "neither a time"),
    "empty id": (["", "--yes"], 2, "an empty id fits every letter"),
    "unknown id": ([letter(0).id, "feed", "--yes"], 1, "no dead letter fits feed"),
    "unknown source": (["--source", "nobody", "--yes"], 1, "no dead letter fits --source nobody"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_rm_deletes_nothing_when_the_choice_is_not_clear(
    root: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    """Each refusal is one sentence that says what to type instead."""
    words, status, sentence = REFUSALS[why]
    assert command(root, "rm", *words) == status
    captured = capsys.readouterr()
    assert sentence in captured.err + captured.out
    assert len(read_list(root, capsys)) == 5


@pytest.mark.parametrize(("answer", "left"), [("n", 5), ("", 5), ("y", 3)])
def test_rm_asks_before_it_deletes_for_good(
    root: Path, capsys: pytest.CaptureFixture[str], answer: str, left: int
) -> None:
    """The question says what is deleted, and where; only a yes deletes."""
    terminal = io.StringIO(answer + "\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", terminal)
        status = command(root, "rm", "--before", "7d", "--source", "metric")
    assert status == (left == 5)
    question = f"Delete 2 dead letters (2 metric; 14 points known) in {letters_dir(root)} for good?"
    assert question in capsys.readouterr().out
    assert len(read_list(root, capsys)) == left


def test_rm_reports_what_it_deleted_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts get the ids and the files."""
    assert command(root, "rm", "--all", "--yes", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["deleted"]) == 4
    assert [Path(file).name for file in answer["files"]] == ["oversized-lifecycle-4.bin"]
    assert not any(Path(file).exists() for file in answer["files"])


def test_deleted_letters_are_not_kept_again(root: Path) -> None:
    """A worker that stopped at the limit repeats its batch; the deleted letters take no room."""
    assert command(root, "rm", letter(0).id, "--yes") == 0
    worker = FileDeadLetters(letters_dir(root), limit=4)
    worker.put(letter(0))
    worker.put(letter(9))
    assert worker.flush() == 1
    assert {one.offset for one in worker.read()} == {1, 2, 3, 9}
