"""Skips every exit hook of Python."""

import os

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
os._exit(4)
