"""`runwire retain` refuses options that could mean every run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from runwire_consumers.commands import retain
from runwire_consumers.housekeeping.rules import RuleError


@pytest.mark.parametrize("option", ["--project", "--tag", "--without-tag", "--state"])
def test_empty_option_does_not_widen_the_rule(option: str, tmp_path: Path) -> None:
    """An unset variable of a shell is a mistake, and no server is asked."""
    parser = argparse.ArgumentParser()
    retain.add_arguments(parser)
    args = parser.parse_args(["--older-than", "0s", "--delete", "--yes", option, ""])
    args.dir = tmp_path
    with pytest.raises(RuleError, match=r"write|not empty"):
        retain.run(args)
