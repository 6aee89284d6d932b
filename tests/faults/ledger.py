"""Calls of a fuzz trainer as a function of the step alone, and their acknowledgements.

A step names one call: `label * LABEL_STEPS + call`, where a label belongs to one thread of one
process and is never used again. From the step follow kind, size and every value, so the checker
needs nothing from the trainer but the steps that it acknowledged.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

LABEL_STEPS = 1_000_000
METRIC, TEXT, PARAM = "metric", "text", "param"
_SIZES = (1, 1, 1, 2, 3, 5, 8, 20, 20, 40, 80, 150)
_WIDE_SIZES = (1000, 4000, 8700)  # a record of 8,700 doubles has 70 kB
_TEXT_CHARS = (3, 20, 200, 4000, 30_000, 65_000)
# The same formula in SQL; multiples of 1/8 add up exactly in any order.
VALUE_SQL = "((step * 7919 + toInt64(substring(metric, 2)) * 104729) % 1000003) / 8"
_ACK = struct.Struct("<qd")


def _mixed(step: int) -> int:
    return zlib.crc32(step.to_bytes(8, "little"))


def kind_of(step: int) -> str:
    """What this call logs. A text comes first, so that a forked child begins with one."""
    if step % LABEL_STEPS == 0:
        return TEXT
    share = _mixed(step) % 200
    return TEXT if share < 16 else PARAM if share < 20 else METRIC


def size_of(step: int) -> int:
    """Number of metrics of a call."""
    mixed = _mixed(step) >> 8
    if mixed % 300 == 0:
        return _WIDE_SIZES[mixed // 300 % len(_WIDE_SIZES)]
    return _SIZES[mixed % len(_SIZES)]


def value(step: int, index: int) -> float:
    """Value of metric number `index` of a call."""
    return ((step * 7919 + index * 104729) % 1_000_003) / 8


def metrics(step: int) -> dict[str, float]:
    """All metrics of a call."""
    return {f"m{index}": value(step, index) for index in range(size_of(step))}


def text(step: int) -> str:
    """The text of a call, 3 characters to more than 65 kB."""
    chars = _TEXT_CHARS[_mixed(step) // 7 % len(_TEXT_CHARS)]
    return (f"{step} " + "loss ä\n" * (chars // 7))[: max(chars, 12)]


def checksum(step: int) -> float:
    """What the store must hold of a call: the sum of its values, or the length of its text."""
    kind = kind_of(step)
    if kind == METRIC:
        return sum(value(step, index) for index in range(size_of(step)))
    return float(len(text(step).encode())) if kind == TEXT else float(step)


class Acks:
    """The trainer's side: one file per label, one write per call that returned."""

    def __init__(self, folder: Path, label: int) -> None:
        self._fd = os.open(folder / f"{label}.ack", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def acknowledge(self, step: int) -> None:
        os.write(self._fd, _ACK.pack(step, checksum(step)))


def acknowledged(folder: Path) -> dict[int, list[int]]:
    """Acknowledged steps of each label; fails when a trainer did not log what it should."""
    found: dict[int, list[int]] = {}
    for path in folder.glob("*.ack"):
        data = path.read_bytes()
        whole = data[: len(data) // _ACK.size * _ACK.size]
        steps = []
        for step, total in _ACK.iter_unpack(whole):
            assert total == checksum(step), f"{path}: call {step} was logged with other values"
            steps.append(step)
        found[int(path.stem)] = steps
    return found


def in_flight(label: int, steps: list[int]) -> int:
    """The one call of a label that may be stored although it was never acknowledged."""
    return steps[-1] + 1 if steps else label * LABEL_STEPS
