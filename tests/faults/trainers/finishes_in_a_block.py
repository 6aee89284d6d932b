"""Ends its run with the block, then continues."""

import runwire

with runwire.init("exits") as run:
    run.log({"loss": 1.0})
