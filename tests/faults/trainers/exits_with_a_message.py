"""sys.exit with text prints it and ends with 1."""

import sys

import runwire

runwire.init("exits")
sys.exit("no data")
