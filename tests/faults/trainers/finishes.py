"""Ends at its last line."""

import runwire

runwire.init("exits")
for step in range(10):
    runwire.log({"loss": 1.0 / (step + 1)})
