"""How hard the random tests try: `make check` asks for a short answer, everything else for all."""

from __future__ import annotations

import os

VARIABLE = "RUNWIRE_TEST_QUICK"
IS_QUICK = os.environ.get(VARIABLE) == "1"


def examples(count: int) -> int:
    """The number of examples of a property: a fifth of it in a hurry."""
    return max(10, count // 5) if IS_QUICK else count
