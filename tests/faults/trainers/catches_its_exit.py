"""Calls a function that calls sys.exit, and continues."""

import sys

import runwire

runwire.init("exits")
try:
    sys.exit(4)
except SystemExit:
    runwire.log({"loss": 1.0})
