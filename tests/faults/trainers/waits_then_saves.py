"""Notes SIGTERM and saves for so long that it is killed meanwhile."""

import signal
import time

import runwire

noted = []
signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
runwire.init("exits")
runwire.log({"loss": 1.0})
print("ready", flush=True)
while not noted:
    time.sleep(0.01)
print("saving", flush=True)
while True:
    time.sleep(0.05)
