"""From a record's bytes to what a batch holds."""

from runwire_consumers.core.batch import Decoded
from runwire_consumers.core.source import Record
from runwire_schemas import codec
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import EVENTS
from runwire_schemas.metric_decode import decode_metric_batch


def decode_record(record: Record) -> Decoded:
    """Return the event, or for metrics the columns, in a record.

    Raises: DecodeError when the bytes are none, or are of another kind than their stream.
    """
    if record.stream == "metric":
        return decode_metric_batch(record.value)
    event = codec.decode(record.value)
    if not isinstance(event, EVENTS.get(record.stream, ())):
        raise DecodeError(f"{type(event).__name__} in the stream {record.stream!r}")
    return event
