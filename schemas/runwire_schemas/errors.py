"""What can go wrong between an event and its bytes."""

from __future__ import annotations


class RunwireError(Exception):
    """Root of everything that runwire raises on purpose."""


class ConfigError(RunwireError, ValueError):
    """A setting or an argument is not usable; the message says which one and what to do."""


MISUSE = 2  # exit status of a command line that cannot be understood


class CommandError(RunwireError):
    """An expected failure of a command: its text is the whole message.

    `exit_code` is the status that the process ends with.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DecodeError(ValueError):
    """These bytes are no event of a schema we know; the message says what is wrong with them."""


class SchemaError(ValueError):
    """An event does not fit its schema, or a schema is missing; a fault of the calling code."""


class RegistryAway(Exception):  # noqa: N818 - a state of the world and not of the bytes
    """The schema registry was asked and gave no answer: the same call may succeed later."""
