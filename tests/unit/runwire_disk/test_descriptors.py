"""File descriptors of a reader of many folders: the limit is raised, a reserve is kept."""

from __future__ import annotations

import resource
import subprocess
import sys

LIMITED = """
import os, resource
from runwire_disk.descriptors import RESERVE, allow_many_files, descriptors_left
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
before = descriptors_left()
allow_many_files()
print(before, descriptors_left(), *resource.getrlimit(resource.RLIMIT_NOFILE), RESERVE)
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    print(descriptors_left())
"""


def test_soft_limit_is_raised_and_a_reserve_is_left() -> None:
    """What folders may take never includes the reserve; with no descriptor at all it is 0."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True
    )
    before, after, soft, hard, reserve, none = map(int, done.stdout.split())
    assert (soft, hard, none) == (200, 200, 0)
    assert after - before == 100
    assert before < 100 - reserve


def test_higher_soft_limit_is_left_alone() -> None:
    """Nobody's limit is lowered."""
    from runwire_disk.descriptors import allow_many_files

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_many_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
