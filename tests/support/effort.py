"""Effort of the random tests: a tenth of the examples in `make check`, all elsewhere."""

from __future__ import annotations

import os

VARIABLE = "RUNWIRE_TEST_QUICK"
IS_QUICK = os.environ.get(VARIABLE) == "1"


def examples(count: int) -> int:
    """Number of examples for a property, reduced under RUNWIRE_TEST_QUICK."""
    return max(10, count // 10) if IS_QUICK else count
