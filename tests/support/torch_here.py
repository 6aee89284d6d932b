"""torch, for tests that need it: `from support.torch_here import torch`.

Without it the module that imports this skips and says why; with RUNWIRE_TEST_REQUIRE_SERVERS=1, as
in CI, it fails.
"""

from __future__ import annotations

import os

import pytest

try:
    import torch  # noqa: F401 - imported from here
except ImportError as error:
    if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
        raise ImportError("RUNWIRE_TEST_REQUIRE_SERVERS=1 and torch is not installed") from error
    pytest.skip("needs torch, which is not installed", allow_module_level=True)
