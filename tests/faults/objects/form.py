"""Short or long: what `make test` runs, and what only `make faults` does."""

from __future__ import annotations

import os
from typing import Any

import pytest

from faults.objects.contents import LARGE_BYTES

LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
# The kills always meet 200 MB; what a server does to a transfer shows with less.
AMID_BYTES = LARGE_BYTES if LONG else 70_000_003


def only_long(*values: Any) -> Any:
    """A parameter of the long form."""
    skip = pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it (make faults)")
    return pytest.param(*values, marks=[skip, pytest.mark.slow])
