#!/usr/bin/env python3
"""Entry point of the servers without Docker: `python deploy/native/servers.py --help`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the system Python may be older
    sys.exit("error: deploy/native/servers.py needs Python 3.11 or newer")

from runwire_servers.command import main

if __name__ == "__main__":
    sys.exit(main())
