"""Why an artifact does not leave the outbox: for ever, or for now."""

from __future__ import annotations

from typing import Final

from runwire_schemas.errors import RunwireError

__all__ = ["OTHER_STORE", "STORE_AWAY", "STORE_REFUSED", "UNEXPECTED", "NotNow", "UploadFailed"]

# Causes in an agent's state; those of the Kafka route are the words of `shipping.broker`.
STORE_AWAY: Final = "store_away"
STORE_REFUSED: Final = "store_refused"
OTHER_STORE: Final = "other_store"
UNEXPECTED: Final = "unexpected"


class UploadError(RunwireError):
    """Why a request does not leave the outbox."""


class UploadFailed(UploadError):  # noqa: N818 - a verdict on the artifact
    """The artifact can never be shipped: its content is gone or damaged. The message says why."""


class NotNow(UploadError):  # noqa: N818 - a state of the world
    """It stays in the outbox and is tried again; `kind` is a cause, the message a sentence."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
