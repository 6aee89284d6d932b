"""Leaves through the built-in exit, as notebooks and beginners do."""

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
exit(6)  # noqa: PLR1722 - the built-in is the point
