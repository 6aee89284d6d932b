"""Artifacts assembled from wrong values: refused by the call that logs them, never before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runwire import Artifact, ArtifactError
from runwire.run import Run
from support.artifacts import contents, folders_in, requests


def refused(root: Path, call: Callable[[], object], match: str) -> None:
    """The call says so, and leaves nothing."""
    with pytest.raises(ArtifactError, match=match):
        call()
    assert folders_in(root) == []


WRONG_PARTS: list[tuple[Any, str]] = [
    (lambda a: a.add_bytes("text", "f"), "add_bytes takes bytes, not str"),
    (lambda a: a.add_bytes(5, "f"), "add_bytes takes bytes, not int"),
    (lambda a: a.add_bytes(b"", None), "name=None is not a string"),
    (lambda a: a.add_file(None), "None is not a path"),
    (lambda a: a.add_file("x", 5), "name=5 is not a string"),
    (lambda a: a.add_file("x", policy=["auto"]), "policy="),
    (lambda a: a.add_dir(7), "7 is not a path: name a folder"),
    (lambda a: a.add_reference(None), "None is not a path"),
    (lambda a: a.add_reference("s3://b/x"), "not on this machine"),
    (lambda a: a.add_reference("http://["), "is not a URL"),
]
WRONG_WORDS: list[tuple[dict[str, Any], str]] = [
    ({"aliases": 5}, "aliases=5 is not a list"),
    ({"aliases": [["a"]]}, "alias="),
    ({"aliases": {"a": 1}}, "is not a list"),
    ({"aliases": b"best"}, "is not a list"),
    ({"metadata": [1]}, "metadata is a list: give a mapping"),
    ({"metadata": "x"}, "metadata is a str"),
    ({"metadata": 0}, "metadata is a int"),
]


@pytest.mark.parametrize(("make", "match"), WRONG_PARTS)
def test_log_artifact_refuses_parts_of_wrong_type(
    root: Path, run: Run, make: Any, match: str
) -> None:
    """A wrong content, path, name or policy is refused with a sentence, and nothing is kept."""
    artifact = make(Artifact("a"))
    refused(root, lambda: run.log_artifact(artifact), match)


@pytest.mark.parametrize(("said", "match"), WRONG_WORDS)
def test_log_artifact_refuses_wrong_aliases_and_metadata(
    root: Path, run: Run, said: dict[str, Any], match: str
) -> None:
    """The call and the Artifact refuse the same values."""
    refused(root, lambda: run.log_artifact(b"", "a", **said), match)
    refused(root, lambda: run.log_artifact(Artifact("a").add_bytes(b"", "x"), **said), match)


def test_wrong_parts_are_counted_and_never_raise_unless_strict(root: Path, lenient: Run) -> None:
    """An artifact is assembled outside the guard, so all of it is checked when it is logged."""
    for make, _ in WRONG_PARTS:
        assert lenient.log_artifact(make(Artifact("a"))).route == "refused"
    assert lenient.guard.counts.pop("log_artifact") == len(WRONG_PARTS)
    assert folders_in(root) == []


def test_wrong_type_alias_or_metadata_does_not_cost_the_content(root: Path, lenient: Run) -> None:
    """What describes an artifact is left out with a sentence; its files are kept."""
    for said, _ in WRONG_WORDS:
        assert lenient.log_artifact(Artifact("a", **said).add_bytes(b"", "x")).route != "refused"
    lenient.log_artifact(b"y", "b", aliases=["two words", "best"], type=[], metadata=7)  # type: ignore[arg-type]
    last = requests(root)[-1]
    assert (last.aliases, last.type, last.metadata) == (("best",), "file", {})
    assert contents(root, last) == {"b": b"y"}
    assert lenient.guard.counts.pop("log_artifact") == len(WRONG_WORDS) + 3


def test_aliases_and_metadata_accept_none_and_objects(root: Path, run: Run) -> None:
    """None adds nothing, in both places; an object with fields is metadata too."""
    artifact = Artifact("a", aliases=None, metadata=None).add_bytes(memoryview(b"ab")[::-1], "x")
    artifact.aliases.append("own")
    artifact.metadata["a"] = 1
    run.log_artifact(artifact, aliases=None, metadata=None)
    run.log_artifact(artifact, aliases=iter(["more"]), metadata=SimpleNamespace(b=2))  # type: ignore[arg-type]
    first, second = requests(root)
    assert (first.aliases, first.metadata) == (("own",), {"a": 1})
    assert (second.aliases, second.metadata) == (("own", "more"), {"a": 1, "b": 2})
    assert contents(root, first) == {"x": b"ba"}
