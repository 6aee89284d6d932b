"""Leaves through a name that it imported before the run started."""

from sys import exit  # noqa: A004 - the name is the point

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
exit(5)
