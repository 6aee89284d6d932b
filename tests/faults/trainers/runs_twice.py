"""Two runs in one process; the second dies of an exception."""

import runwire

runwire.init("exits", run_id="first").log({"loss": 1.0})
runwire.finish()
runwire.init("exits", run_id="second").log({"loss": 1.0})
raise ValueError("second")
