"""Leaves by raising SystemExit itself, from a function."""

import runwire


def main() -> None:
    """Log one point and leave."""
    runwire.log({"loss": 1.0})
    raise SystemExit(4)


runwire.init("exits")
main()
