"""The errors that runwire raises on purpose, as one tree.

```
RunwireError
├── ConfigError                      a setting or an argument is not usable; also a ValueError
│   ├── KafkaSettingsError           runwire_schemas.connections.kafka
│   ├── ClickHouseSettingsError      runwire_schemas.connections.clickhouse
│   ├── S3SettingsError              runwire_schemas.connections.s3
│   ├── SecretError                  runwire_schemas.connections.secret
│   ├── RetentionError               runwire_store.retention
│   └── RuleError                    runwire_consumers.housekeeping.rules
├── CommandError                     an expected failure of a command, with its exit status
│   ├── EngineError, StackError      runwire_consumers: the embedded stack
│   └── QueryError                   runwire_query
├── WireError                        between an event and its bytes; also a ValueError
│   ├── DecodeError                  bytes are no event
│   ├── SchemaError                  an event does not fit, or its schema or topic is missing
│   │   └── RegistryRefused          runwire_schemas.registry
│   └── RegistryAway                 no answer from the registry
├── SpoolError                       runwire_disk.spool: files of the spool; also a RuntimeError
│   ├── SpoolBusy                    another process holds the folder
│   ├── SeriesClosed                 the writer has ended
│   ├── QuotaExceeded                no further segment is allowed; also an OSError
│   └── RecordTooLarge               also a ValueError
├── OutboxError                      runwire_disk.outbox: requests and their content
│   ├── NewerRequestError            written by a newer runwire; also a ValueError
│   └── ContentGoneError             a file was changed or removed before it was uploaded
├── StoreError                       runwire_store: the object store and what it holds
│   ├── StoreAway                    no answer, or passing trouble: try again later
│   │   └── SomethingGone            what the request needs vanished meanwhile
│   ├── StoreRefused                 a person has to act: credentials, bucket, full disk
│   ├── NotFound                     no object has this key
│   ├── ManifestError                no manifest of ours; also a ValueError
│   │   └── RunDeletedError          the run was deleted for good
│   ├── CatalogError                 no such artifact or checkpoint; also a LookupError
│   ├── DownloadError                content cannot be brought to this disk
│   │   └── DigestMismatch           the store holds other bytes than the manifest names
│   └── PublishError                 content that the manifest names is missing
├── ArchiveError                     runwire_consumers: rows of a run cannot be archived or restored
├── ArtifactError                    runwire: an artifact could not be kept or brought back
├── CheckpointError                  runwire: a checkpoint cannot be saved, found or loaded
│   ├── DamagedCheckpoint            what is on this disk is not what was saved
│   └── UnstorableValue              a value that the safe loader would refuse, with its place
├── UploadError                      runwire_agent.upload: why a request stays or leaves
│   ├── UploadFailed                 it can never be uploaded
│   └── NotNow                       it cannot be uploaded at the moment
└── WorkerError                      runwire_consumers.core: what the worker acts on
    ├── Retryable, RowsRejected      see the table in `core/errors.py`
    │   ├── MessageTooLarge          a Retryable: its topic does not take the record
    │   └── PiecesNeeded             the batch is written in smaller pieces
    ├── DamagedContent               pieces do not make the content they claim to be
    ├── LifecycleError               rules of a bucket have a form that we do not know
    └── Fatal                        a person has to act
        └── DeadLetterLimit, AlreadyRunning, NotAuthorized, LoginRefused
```
"""

from __future__ import annotations

__all__ = [
    "MISUSE",
    "CommandError",
    "ConfigError",
    "DecodeError",
    "RegistryAway",
    "RunwireError",
    "SchemaError",
    "WireError",
]

MISUSE = 2  # exit status of a command line that cannot be understood


class RunwireError(Exception):
    """Root of everything that runwire raises on purpose."""


class ConfigError(RunwireError, ValueError):
    """A setting or an argument is not usable; the message says which one and what to do."""


class CommandError(RunwireError):
    """An expected failure of a command: its text is the whole message.

    `exit_code` is the status that the process ends with.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WireError(RunwireError, ValueError):
    """An event could not become bytes, or bytes could not become an event."""


class DecodeError(WireError):
    """Bytes are no event of a known schema; the message says why."""


class SchemaError(WireError):
    """An event does not fit its schema, or no such schema, kind or topic exists."""


class RegistryAway(WireError):  # noqa: N818 - a state of the world and not of the bytes
    """The schema registry did not answer: the same call may succeed later."""
