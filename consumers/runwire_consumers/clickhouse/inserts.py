"""Inserts of a round: small tables in one block, points of the partitions side by side.

| insert | token |
|---|---|
| a table of one batch, or a piece of it | that of the batch and the table, or the range |
| one small table of several batches | a hash of their tokens: `join_tokens` |

The second kind is harmless under any token: the rows of every small table have keys of their own,
so that a batch which is repeated later, alone or beside others, leaves each of them once. Points
keep the token of their batch, which follows from the intent alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.blocks import TablePiece
from runwire_consumers.clickhouse.client import CALL_ERRORS, insert_block, is_elsewhere
from runwire_consumers.clickhouse.client_pool import ClientPool
from runwire_consumers.clickhouse.native import Block
from runwire_consumers.clickhouse.refusals import RefusalRules, is_refusal
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.sink import Refusals
from runwire_schemas.connections.clickhouse import error_code

# A larger block of one batch gains nothing from company.
SMALL_BLOCK_BYTES = 1024 * 1024
JOINT_BLOCK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Insert:
    """A piece of a table and the batch that it belongs to."""

    batch: Batch
    piece: TablePiece

    @property
    def token(self) -> str:
        """The insert token."""
        return self.piece.token(self.batch.token)

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return len(self.piece.block)


class Inserts:
    """Sends the blocks of one round after the other; `refusals` are of the batches of this one.

    What one batch is refused ends only its own inserts.
    Threads: one calls it.
    """

    def __init__(self, url: str, open_client: Callable[[str], Client]) -> None:
        self._is_compressed = is_elsewhere(url)
        self.clients = ClientPool(lambda: open_client(url))
        self.refusals: Refusals = {}
        self._rules = RefusalRules(url)
        # Token of the batch, token of the insert: what the server has confirmed since the round
        # met nothing but refusals.
        self._stored: set[tuple[str, str]] = set()
        self._apart: set[tuple[str, str]] = set()  # token of the batch, table: refused in company
        self._joint_bytes = JOINT_BLOCK_BYTES

    def begin(self, batches: Sequence[Batch]) -> None:
        """Begin a round, or the next try of one."""
        tokens = {batch.token for batch in batches}
        self.refusals = {}
        self._stored = {entry for entry in self._stored if entry[0] in tokens}
        self._apart = {entry for entry in self._apart if entry[0] in tokens}

    def forget_stored(self) -> None:
        """Send everything again: a server that went away may have lost what it had confirmed."""
        self._stored.clear()

    def send_together(self, inserts: Sequence[Insert]) -> None:
        """Insert the blocks of one small table: together what is small, the rest alone.

        A refusal of the joint block says nothing about a batch: each is then sent alone.
        Raises: CALL_ERRORS, Fatal.
        """
        wanted = [one for one in inserts if self._is_wanted(one)]
        small = [one for one in wanted if self._is_sociable(one)]
        alone = [one for one in wanted if not self._is_sociable(one)]
        for group in self._groups(small):
            if len(group) == 1 or not self._try_joint(group):
                alone += group
        for one in alone:
            self._send(one, self.clients.first())

    def send_side_by_side(self, inserts: Sequence[Insert]) -> None:
        """Insert the blocks of a large table, those of each batch in their order.

        Raises: CALL_ERRORS, Fatal.
        """
        by_batch: dict[str, list[Insert]] = {}
        for one in inserts:
            by_batch.setdefault(one.batch.token, []).append(one)
        self.clients.side_by_side(
            [partial(self._send_in_order, group) for group in by_batch.values()]
        )

    def _send_in_order(self, inserts: Sequence[Insert], client: Client) -> None:
        for one in inserts:
            self._send(one, client)

    def _send(self, one: Insert, client: Client) -> None:
        """Insert one block. What is behind a refused piece waits: it may be cut otherwise then."""
        if not self._is_wanted(one):
            return
        try:
            self._insert(one.piece.table, one.piece.block, one.token, client)
        except CALL_ERRORS as error:
            if not is_refusal(error):
                raise
            self.refusals[one.batch.token] = self._rules.judge(one.batch, one.piece, error)
        else:
            self._rules.note_taken(one.token)
            self._stored.add((one.batch.token, one.token))

    def _try_joint(self, group: Sequence[Insert]) -> bool:
        block = b"".join(bytes(one.piece.block) for one in group)
        table = group[0].piece.table
        token = f"{join_tokens(one.batch.token for one in group)}:{table}"
        try:
            self._insert(table, block, token, self.clients.first())
        except CALL_ERRORS as error:
            if not is_refusal(error):
                raise
            self._apart |= {(one.batch.token, table) for one in group}
            if error_code(error) is None:  # of a proxy, whose limit stays
                self._joint_bytes = min(self._joint_bytes, len(block) // 2)
            return False
        self._stored |= {(one.batch.token, one.token) for one in group}
        return True

    def _insert(self, table: str, block: bytes | Block, token: str, client: Client) -> None:
        insert_block(client, table, block, token=token, is_compressed=self._is_compressed)

    def _is_wanted(self, one: Insert) -> bool:
        token = one.batch.token
        return token not in self.refusals and (token, one.token) not in self._stored

    def _is_sociable(self, one: Insert) -> bool:
        is_apart = (one.batch.token, one.piece.table) in self._apart
        return one.piece.is_whole and one.size <= SMALL_BLOCK_BYTES and not is_apart

    def _groups(self, inserts: Sequence[Insert]) -> Iterator[list[Insert]]:
        group, size = list[Insert](), 0
        for one in inserts:
            if group and size + one.size > self._joint_bytes:
                yield group
                group, size = [], 0
            group.append(one)
            size += one.size
        if group:
            yield group


def join_tokens(tokens: Iterator[str]) -> str:
    """Return the token of a block that these batches share, in whatever order they come."""
    digest = hashlib.blake2b(digest_size=16)
    for token in sorted(tokens):
        digest.update(f"{len(token)}:{token}".encode())
    return f"round:{digest.hexdigest()}"
