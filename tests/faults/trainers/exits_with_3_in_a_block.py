"""Leaves a run's block with SystemExit raised by hand."""

import runwire

with runwire.init("exits") as run:
    run.log({"loss": 1.0})
    raise SystemExit(3)
