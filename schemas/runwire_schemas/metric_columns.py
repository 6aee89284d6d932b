"""Columns of decoded metric batches: those of many batches share arrays, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runwire_schemas.events import MetricBatch

_Int64s = npt.NDArray[np.int64]


class MetricHead(NamedTuple):
    """What the batches of one writer have in common as long as it logs the same names."""

    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    names: tuple[str, ...]


class MetricArrays(NamedTuple):
    """Calls and points of one or many batches.

    Shapes: call_* int64[calls], call_n at least 1; name_idx int32[points], value float64[points].
    """

    call_seq: _Int64s
    call_step: _Int64s
    call_at_ms: _Int64s
    call_n: _Int64s
    name_idx: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]


class MetricColumns(NamedTuple):
    """One metric batch: its part of the arrays.

    Shapes: seq, step, at_ms, name_idx and value have one item per point.
    """

    head: MetricHead
    batch_seq: int
    points_before: int
    arrays: MetricArrays
    first_call: int
    end_call: int
    first_point: int
    end_point: int

    @property
    def project(self) -> str:
        """Return the project."""
        return self.head.project

    @property
    def run_id(self) -> str:
        """Return the run id."""
        return self.head.run_id

    @property
    def attempt(self) -> str:
        """Return the attempt."""
        return self.head.attempt

    @property
    def writer(self) -> str:
        """Return the writer."""
        return self.head.writer

    @property
    def rank(self) -> int:
        """Return the rank."""
        return self.head.rank

    @property
    def points(self) -> int:
        """Return the number of points."""
        return self.end_point - self.first_point

    @property
    def seq(self) -> _Int64s:
        """Return the call number of each point."""
        return self._of_points(self.arrays.call_seq)

    @property
    def step(self) -> _Int64s:
        """Return the step of each point."""
        return self._of_points(self.arrays.call_step)

    @property
    def at_ms(self) -> _Int64s:
        """Return the time of each point."""
        return self._of_points(self.arrays.call_at_ms)

    @property
    def name_idx(self) -> npt.NDArray[np.int32]:
        """Return the position of each point's name in the head's names."""
        return self.arrays.name_idx[self.first_point : self.end_point]

    @property
    def value(self) -> npt.NDArray[np.float64]:
        """Return the value of each point."""
        return self.arrays.value[self.first_point : self.end_point]

    def sliced(self, points: slice) -> MetricColumns:
        """Return a batch of some of the points. Shapes: 0 <= start < stop <= points."""
        calls = slice(self.first_call, self.end_call)
        call_n = self.arrays.call_n[calls]
        ends = np.cumsum(call_n)
        inside = np.minimum(ends, points.stop) - np.maximum(ends - call_n, points.start)
        kept = inside > 0
        arrays = MetricArrays._make(
            (
                *(column[calls][kept] for column in self.arrays[:3]),
                inside[kept],
                self.name_idx[points],
                self.value[points],
            )
        )
        return self._replace(
            arrays=arrays,
            first_call=0,
            end_call=int(kept.sum()),
            first_point=0,
            end_point=points.stop - points.start,
        )

    def _of_points(self, column: _Int64s) -> _Int64s:
        calls = slice(self.first_call, self.end_call)
        return np.repeat(column[calls], self.arrays.call_n[calls])


def columns_of(batch: MetricBatch) -> MetricColumns:
    """Return a decoded batch as columns."""
    head = MetricHead(
        batch.project, batch.run_id, batch.attempt, batch.writer, batch.rank, tuple(batch.names)
    )
    calls = (batch.call_seq, batch.call_step, batch.call_at_ms, batch.call_n)
    name_idx, value = np.array(batch.name_idx, np.int32), np.array(batch.value, np.float64)
    arrays = MetricArrays._make((*map(_longs, calls), name_idx, value))
    arrays = without_empty_calls(arrays)
    end_call, end_point = len(arrays.call_n), len(arrays.value)
    seqs = (batch.batch_seq, batch.points_before)
    return MetricColumns._make((head, *seqs, arrays, 0, end_call, 0, end_point))


def without_empty_calls(arrays: MetricArrays) -> MetricArrays:
    """Return the arrays without calls that have no point."""
    kept = arrays.call_n > 0
    if bool(kept.all()):
        return arrays
    return MetricArrays._make((*(column[kept] for column in arrays[:4]), *arrays[4:]))


def _longs(numbers: Sequence[int]) -> _Int64s:
    return np.array(numbers, np.int64)
