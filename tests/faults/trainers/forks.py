"""A forked child logs and ends like a program; the parent's run is not touched."""

import os
import sys

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
child = os.fork()
if child == 0:
    runwire.log({"child": 1.0})
    sys.exit(5)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 5
runwire.log({"loss": 0.5})
