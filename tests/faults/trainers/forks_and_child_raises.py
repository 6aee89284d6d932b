"""A forked child dies of an exception and another of SIGTERM; the parent finishes."""

import os
import signal
import time

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
child = os.fork()
if child == 0:
    raise ValueError("in the child")
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 1
child = os.fork()
if child == 0:
    time.sleep(10)
    os._exit(0)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
