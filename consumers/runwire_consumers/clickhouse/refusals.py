"""Rules for blocks that the store refuses: try again, cut into pieces, or set rows aside."""

from __future__ import annotations

import threading
from collections import Counter

from runwire_consumers.clickhouse.blocks import TablePiece
from runwire_consumers.clickhouse.client import explain
from runwire_consumers.clickhouse.rows import EVENT_TABLES
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.errors import (
    PiecesNeeded,
    Refusal,
    Rejection,
    Retryable,
    RowsRejected,
)
from runwire_consumers.core.pieces import Pieces
from runwire_schemas.connections.clickhouse import error_code, trouble_of
from runwire_schemas.connections.clickhouse_troubles import ClickHouseTrouble

DEAD_LETTER = "deadletter"
# A block is refused this often before it is written in pieces: the cause may be passing.
REFUSALS_MAX = 3
PIECES_OF_A_CUT = 8
# Kafka takes 4096 bytes of metadata with an offset. A batch with more refused rows than fit loses
# their neighbours to the dead letters too, where they can be replayed.
PIECES_TEXT_MAX = 2000
# No smaller block is cut. A server needs some MiB for an insert of any size.
SERVER_BLOCK_BYTES_MIN = 256 * 1024
PROXY_BLOCK_BYTES_MIN = 8 * 1024
# Tables that materialized views read: a refusal may come from a view, after the table took the
# block, so only a proxy's refusal proves that nothing was stored.
VIEWED_TABLES = frozenset({"artifacts", "heartbeats", "run_events"})

_REFUSALS = (ClickHouseTrouble.TOO_LARGE, ClickHouseTrouble.ROWS)


def is_refusal(error: Exception) -> bool:
    """Return whether the store answered that it does not take this block, now or ever."""
    return trouble_of(error) in _REFUSALS


class RefusalRules:
    """Decides what becomes of a batch whose block was refused, and learns what sizes tables take.

    Threads: any.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._refusals: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}  # of the smallest pieces that a table needed so far

    def note_taken(self, token: str) -> None:
        """Note that the store took the block of this token."""
        with self._lock:
            self._refusals.pop(token, None)

    def judge(self, batch: Batch, piece: TablePiece, error: Exception) -> Refusal:
        """Return what the batch needs before its next try.

        Raises: Fatal where a person must act.
        """
        with self._lock:
            found = self._cure(batch, piece, error)
        if found is not None:
            return found
        explained = explain(error, self._url)
        if isinstance(explained, Retryable):
            return explained
        raise explained from error

    def _cure(self, batch: Batch, piece: TablePiece, error: Exception) -> Refusal | None:
        """Return pieces or rejected rows; None where time may help or a person must act."""
        trouble, sentence = trouble_of(error), str(explain(error, self._url))
        is_of_proxy = error_code(error) is None
        if piece.table in VIEWED_TABLES and not is_of_proxy:
            return None  # a view may have failed after the table took the block
        if trouble is ClickHouseTrouble.ROWS and piece.kind in ("metric", DEAD_LETTER):
            return None  # numbers, and letters that are cut to size: the server's words say more
        if trouble is ClickHouseTrouble.TOO_LARGE and len(piece.block) <= (
            PROXY_BLOCK_BYTES_MIN if is_of_proxy else SERVER_BLOCK_BYTES_MIN
        ):
            return None  # smaller ones would not pass either, and cost the store one part each
        if piece.span > 1:
            pieces = self._smaller(batch, piece, trouble)
            if pieces is None:
                return None
            if len(str(pieces)) <= PIECES_TEXT_MAX:
                return PiecesNeeded(batch.token, pieces, sentence)
        if piece.kind in EVENT_TABLES and (is_of_proxy or trouble is ClickHouseTrouble.ROWS):
            return RowsRejected([Rejection(piece.kind, index, sentence) for index in piece.indexes])
        return None

    def _smaller(
        self, batch: Batch, piece: TablePiece, trouble: ClickHouseTrouble
    ) -> Pieces | None:
        """Return smaller pieces; None as long as the same one may pass."""
        size = max(1, piece.span // PIECES_OF_A_CUT)
        if trouble is ClickHouseTrouble.ROWS:
            return batch.pieces.cut(piece.table, piece.first, size, end=piece.end)
        token = piece.token(batch.token)
        self._refusals[token] += 1
        learned = self._sizes.get(piece.table)
        if learned is None and self._refusals[token] < REFUSALS_MAX:
            return None
        del self._refusals[token]  # it is never sent again
        size = self._sizes[piece.table] = min(size, learned or size)
        return batch.pieces.cut(piece.table, piece.first, size)
