"""Dies of an exception whose message holds a secret."""

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
raise ValueError("cannot connect with password=hunter2")
