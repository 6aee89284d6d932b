"""Rules of retention are read as written, and refused where they could mean something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_consumers.housekeeping import rules
from runwire_consumers.housekeeping.rules import RuleError, RunRule, parse_age, read_rules

DAY_S = 86_400.0
DELETE = '[[rule]]\nolder_than = "1d"\naction = "delete"\n'


def read(tmp_path: Path, text: str) -> list[RunRule]:
    path = tmp_path / "retention.toml"
    path.write_text(text)
    return read_rules(path)


def test_example_in_the_documentation_is_read_as_it_says(tmp_path: Path) -> None:
    """The file in the module's docstring is valid, and its three rules are what it says."""
    assert rules.__doc__ is not None
    example = rules.__doc__.split("```")[1].removeprefix("toml\n")
    assert read(tmp_path, example) == [
        RunRule(
            action="delete",
            older_than_s=90 * DAY_S,
            project="cats",
            states=("failed", "killed"),
            tag="sweep=3",
            without_tag="keep",
        ),
        RunRule(action="thin", older_than_s=30 * DAY_S, keep_every=100),
        RunRule(action="thin", older_than_s=60 * DAY_S, bucket=1000),
    ]


def test_missing_file_has_no_rules_at_all(tmp_path: Path) -> None:
    """Without the file nothing is deleted."""
    assert read_rules(tmp_path / "retention.toml") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rule = 3", "below"),
        ("[[rules]]", "rules"),
        ('[[rule]]\naction = "delete"', "older_than"),
        ('[[rule]]\nolder_than = "1d"', "action"),
        (DELETE + "older = 3", "older"),
        (DELETE + 'state = ["running"]', "still run"),
        (DELETE + "state = [3]", "list"),
        (DELETE + "project = 3", "project"),
        (DELETE + 'project = ""', "not empty"),
        (DELETE + 'tag = ""', "not empty"),
        (DELETE + 'without_tag = ""', "not empty"),
        (DELETE + "bucket = 10", "thin"),
        ('[[rule]]\nolder_than = "1d"\naction = "thin"', "keep_every"),
        ('[[rule]]\nolder_than = "1d"\naction = "thin"\nkeep_every = 0', "1 or more"),
        ('[[rule]]\nolder_than = "1d"\naction = "thin"\nbucket = true', "1 or more"),
        ('[[rule]]\nolder_than = "1d"\naction = "thin"\nbucket = 2\nkeep_every = 2', "thin"),
        ('[[rule]]\nolder_than = "1d"\naction = "remove"', "remove"),
        ('[[rule]]\nolder_than = 90\naction = "delete"', "90"),
        ('[[rule]]\nolder_than = "1m"\naction = "delete"', "min"),
        ("no toml", "retention.toml"),
    ],
)
def test_rule_with_a_mistake_refuses_the_whole_file(text: str, words: str, tmp_path: Path) -> None:
    """One mistake applies nothing, and the sentence names the file and the mistake."""
    with pytest.raises(RuleError, match=words) as caught:
        read(tmp_path, DELETE + text if text.startswith("[[rule]]") else text)
    assert "retention.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5 min", 90), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)],
)
def test_age_is_read_in_its_own_unit(text: str, seconds: float) -> None:
    """Seconds, minutes, hours, days and weeks."""
    assert parse_age(text) == seconds
