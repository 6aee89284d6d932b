"""Values that the safe loader does not build: converted, or left out while the rest is saved."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import runwire
from runwire.run import Run
from support.checkpoints import local_parts
from support.torch_here import torch

Start = Callable[..., Run]


class Color(enum.Enum):
    RED = "#f00"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Options:
    lr: float
    path: Path
    inner: Any = None


class Words(list):
    __slots__ = ()


CONVERTED = {
    "namespace": (argparse.Namespace(lr=0.1, out=Path("/a")), {"lr": 0.1, "out": "/a"}),
    "nested": (Options(1e-3, Path("b"), Options(2.0, Path("c"))), None),
    "simple": (types.SimpleNamespace(a=[Color.RED]), {"a": ["RED"]}),
    "enum": (Color.RED, "RED"),
    "path": (Path("/x/y"), "/x/y"),
    "decimal": (decimal.Decimal("1.10"), "1.10"),
    "fraction": (fractions.Fraction(1, 3), "1/3"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "datetime": (
        datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC),
        "2026-01-02T03:00:00+00:00",
    ),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "duration": (datetime.timedelta(minutes=1), 60.0),
    "point": (Point(1, 2), (1, 2)),
    "deque": (collections.deque([1, 2], maxlen=2), [1, 2]),
    "words": (Words(["a"]), ["a"]),
    "range": (range(3), [0, 1, 2]),
    "keys": ({"a": 1}.keys(), ["a"]),
    "array": (array.array("d", [1.5]), [1.5]),
    "view": (memoryview(b"ab"), b"ab"),
    "proxy": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "texts": (np.array([["a", "b"]]), [["a", "b"]]),
    "objects": (np.array([None, "x"], dtype=object), [None, "x"]),
    "moments": (
        np.array(["2026-01-02T03:04:05.000000006"], "M8[ns]"),
        ["2026-01-02T03:04:05.000000006"],
    ),
    "moment": (np.datetime64("2026-01-02"), "2026-01-02"),
}
CONVERTED["nested"] = (
    CONVERTED["nested"][0],
    {"lr": 1e-3, "path": "b", "inner": {"lr": 2.0, "path": "c", "inner": None}},
)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_settings_and_other_usual_values_are_saved_as_plain_ones(
    start: Start, asynchronous: bool
) -> None:
    """Nothing of a usual `extra` is lost, not even in a strict run: config does the same."""
    run = start()
    extra = {name: value for name, (value, _) in CONVERTED.items()}
    run.save_checkpoint(1, extra=extra, asynchronous=asynchronous)
    loaded = run.load_checkpoint()
    assert loaded.extra == {name: plain for name, (_, plain) in CONVERTED.items()}
    assert loaded.left_out == {}


class Hostile:
    """Every question about it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


class HostileMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


class Broken(torch.nn.Module):
    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("not built yet")


def ring() -> list[Any]:
    made: list[Any] = [1]
    made.append(made)
    return made


LEFT_OUT: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "lambda": lambda: lambda x: x,
    "class": lambda: Color,
    "generator": lambda: (n for n in range(3)),
    "object": object,
    "hostile": Hostile,
    "mapping": HostileMapping,
    "module": lambda: types,
    "broken": Broken,
    "meta": lambda: torch.empty(3, device="meta"),
    "long double": lambda: np.longdouble(1),
    "record": lambda: np.zeros(2, dtype=[("a", "i4")]),
    "masked": lambda: np.ma.masked_array([1, 2], [0, 1]),
    "huge": lambda: 10**800,
    "range": lambda: range(10**9),
    "torch generator": torch.Generator,
    "file": lambda: Path(__file__).open(encoding="utf-8"),  # noqa: SIM115 - closed with it
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_value_that_cannot_be_stored_costs_only_itself(
    start: Start, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Model, optimizer and the other values are saved; save and load name its place."""
    run, model = start(settings={"strict": False}), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    odd = LEFT_OUT[name]
    extra = {"epoch": 3, "odd": odd(), "list": [1, odd(), 3], "after": {"x": torch.ones(1)}}
    for step in (1, 2):
        saved = run.save_checkpoint(step, model=model, optimizer=optimizer, extra=extra)
        assert saved.path is not None
    messages = [text for text in caplog.messages if "checkpoint 1 was saved without" in text]
    assert len(messages) == 1, caplog.text
    assert "extra['odd'] (" in messages[0]
    assert "extra['list'][1] (" in messages[0]
    assert list(run.guard.counts.values()) == [2]
    caplog.clear()
    other = torch.nn.Linear(2, 2)
    loaded = run.load_checkpoint("latest", model=other, optimizer=optimizer)
    assert torch.equal(other.weight, model.weight)
    assert loaded.extra.pop("after")["x"].tolist() == [1]
    assert loaded.extra == {"epoch": 3, "list": [1, None, 3]}
    assert list(loaded.left_out) == ["extra['odd']", "extra['list'][1]"]
    assert "checkpoint 2 was saved without extra['odd'] (" in caplog.text
    assert runwire.read_checkpoint(loaded.path).left_out == loaded.left_out


def test_ring_and_odd_keys_cost_only_themselves(start: Start) -> None:
    """A container inside itself, keys that cannot be keys, and keys that become equal."""
    run = start(settings={"strict": False})
    extra = {
        "ring": ring(),
        frozenset([1]): 2,
        ("a", threading): 3,
        "set": {1, frozenset([2])},
        Path("same"): 4,
        "same": 5,
    }
    assert run.save_checkpoint(1, extra=extra).path is not None
    loaded = run.load_checkpoint()
    assert loaded.extra == {"ring": [1, None], ("a", None): 3, "set": {1}, "same": 4}
    assert len(loaded.left_out) == 5


def test_whole_extra_that_cannot_be_stored_is_none(start: Start) -> None:
    """The weights are worth more than the whole of `extra`."""
    run = start(settings={"strict": False})
    run.save_checkpoint(1, model={"w": torch.ones(1)}, extra=threading.Lock())
    loaded = run.load_checkpoint()
    assert (loaded.extra, list(loaded.left_out)) == (None, ["extra"])
    assert loaded.model["w"].tolist() == [1]


class Tagged(torch.Tensor):
    """A tensor class as data libraries have them: a name and methods on top of the content."""


def test_tensors_of_a_class_without_content_of_its_own_are_saved_plain(start: Start) -> None:
    """The safe loader refuses the class, and the content is that of a plain tensor."""
    run = start()
    run.save_checkpoint(1, extra=torch.arange(3).as_subclass(Tagged))
    loaded = run.load_checkpoint().extra
    assert (type(loaded), loaded.tolist()) == (torch.Tensor, [0, 1, 2])


@pytest.mark.parametrize(
    "model",
    [
        lambda: torch.nn.Linear(2, 2, device="meta"),
        Broken,
        threading.Lock,
        lambda: {"inner": torch.nn.Linear(2, 2, device="meta")},
    ],
)
def test_model_of_which_nothing_can_be_saved_takes_no_place(
    start: Start, root: Path, model: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A hollow checkpoint would make retention delete good ones, and train on from nothing."""
    run = start(settings={"strict": False, "checkpoint_keep_last": 1})
    run.save_checkpoint(1, model=torch.nn.Linear(2, 2))
    assert run.save_checkpoint(2, model=model(), extra=1).path is None
    assert "the checkpoint of step 2 is lost" in caplog.text
    assert [part.manifest.checkpoint.step for part in local_parts(root)] == [1]
