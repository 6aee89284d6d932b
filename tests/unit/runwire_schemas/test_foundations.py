"""Paths, keys, varints and topics, on which everything else rests."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_disk import paths
from runwire_schemas import identity, topics, varint
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import EVENTS
from support.effort import examples
from unit.runwire_schemas.strategies import NUMBERS, TEXT


def test_state_dir_takes_argument_before_environment_before_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument, then RUNWIRE_DIR, then XDG_STATE_HOME, then the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RUNWIRE_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert tmp_path / ".local/state/runwire" == paths.state_dir()
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/invalid")
    assert tmp_path / ".local/state/runwire" == paths.state_dir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert tmp_path / "x/runwire" == paths.state_dir()
    monkeypatch.setenv("RUNWIRE_DIR", "~/own")
    assert tmp_path / "own" == paths.state_dir()
    assert tmp_path / "own" == paths.state_dir("")
    assert tmp_path / "arg" == paths.state_dir(tmp_path / "arg")


def test_state_dir_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative choice is bound to the folder it was made in."""
    monkeypatch.chdir(tmp_path)

    assert tmp_path / "data" == paths.state_dir("data")


def test_folders_below_the_root(tmp_path: Path) -> None:
    """The parts of the root keep their names."""
    names = [
        path.relative_to(tmp_path).as_posix()
        for path in (
            paths.spool_dir(tmp_path),
            paths.agents_dir(tmp_path),
            paths.embedded_dir(tmp_path),
            paths.connection_file(tmp_path),
        )
    ]

    assert names == ["spool", "agents", "embedded", "embedded/connection.json"]


def test_keys_are_stored_so_they_never_change() -> None:
    """These values are in people's databases."""
    assert identity.run_key("project", "run").hex() == "4b992424b061377181f408b007ea4e77"
    assert identity.writer_key("0123456789abcdef0123456789abcdef") == 6022157676021852876
    assert identity.attempt_key("1") == 8518482412311870710


def test_run_keys_keep_their_parts_apart() -> None:
    """Moving a letter from the project to the run id gives another key."""
    assert identity.run_key("a", "bc") != identity.run_key("ab", "c")
    assert identity.run_key("", "ab") != identity.run_key("ab", "")


def test_text_that_is_no_unicode_has_a_key() -> None:
    """Undecodable file names, which hold lone surrogates, hash too."""
    assert 0 <= identity.writer_key("\ud800") < 2**64
    assert len(identity.run_key("\udcff", "")) == 16


@settings(max_examples=examples(200), deadline=None)
@given(numbers=st.lists(NUMBERS, max_size=20))
def test_varints_are_those_of_fastavro(numbers: list[int]) -> None:
    """Same bytes as fastavro, and they read back."""
    out = io.BytesIO()
    for number in numbers:
        fastavro.schemaless_writer(out, fastavro.parse_schema("long"), number)
    encoded = varint.encode_longs(numbers)

    assert out.getvalue() == encoded == b"".join(map(varint.encode_long, numbers))
    at = 0
    for number in numbers:
        read, at = varint.read_long(encoded, at)
        assert number == read
    assert len(encoded) == at


@settings(max_examples=examples(50), deadline=None)
@given(text=TEXT)
def test_texts_are_those_of_fastavro(text: str) -> None:
    """Same bytes as fastavro."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema("string"), text)

    assert out.getvalue() == varint.encode_text(text)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 1 << 200])
def test_integers_beyond_64_bits_overflow(number: int) -> None:
    """They are refused, not wrapped."""
    with pytest.raises(OverflowError):
        varint.encode_long(number)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10, b"\xff" * 9 + b"\x02"])
def test_bad_varints_are_refused(data: bytes) -> None:
    """Cut off or longer than 64 bits."""
    with pytest.raises(DecodeError):
        varint.read_long(data, 0)


def test_every_event_has_a_topic_with_its_schema() -> None:
    """Events and topics with a schema are the same kinds; names follow from kinds."""
    with_schema = {kind for kind, topic in topics.TOPICS.items() if topic.schema is not None}

    assert set(EVENTS) == with_schema
    assert all(topic.name == f"runwire.{kind}.v1" for kind, topic in topics.TOPICS.items())


def test_trainer_imports_neither_fastavro_nor_numpy() -> None:
    """The modules that a trainer imports load neither fastavro nor numpy."""
    code = (
        "import sys, runwire_disk.paths, runwire_schemas.identity, runwire_schemas.errors, "
        "runwire_schemas.events, runwire_schemas.varint, runwire_schemas.topics, "
        "runwire_schemas.metric_encode, runwire_schemas.codec\n"
        "print(sorted({'fastavro', 'numpy'} & set(sys.modules)))\n"
        "from runwire_schemas import avro_records\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\nFalse\n"
