"""Aborts as a failed assertion in C does."""

import os

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
os.abort()
