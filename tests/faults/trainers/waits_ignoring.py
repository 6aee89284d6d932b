"""Ignores SIGTERM; stays so."""

import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)

import runwire  # noqa: E402

runwire.init("exits")
print("ready", flush=True)
for _ in range(10):
    time.sleep(0.05)
print("still here", flush=True)
while True:
    time.sleep(0.05)
