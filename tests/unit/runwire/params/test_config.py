"""Parameters and summary: every value is recorded as valid JSON, the first value stays."""

import argparse
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.errors import ConfigError
from runwire.guard import Guard
from runwire.params.config import KEY_CHARS_MAX, Config
from runwire.params.summary import Summary
from runwire.safe_text import TEXT_BYTES_MAX, json_text

Written = list[tuple[str, Any]]


def config(*, strict: bool = False) -> tuple[Config, Written]:
    written: Written = []
    guard = Guard(strict=strict)
    return Config(lambda k, text: written.append((k, json.loads(text))), guard), written


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)


class PydanticLike:
    def model_dump(self) -> dict[str, Any]:
        return {"depth": 2}


def test_nested_values_are_stored_flat_and_read_nested() -> None:
    """Names are joined with '/', and reading returns the nested view."""
    params, written = config()
    params.update({"opt": {"lr": 0.1, "sched": {"name": "cos"}}, "seed": 1})
    assert written == [("opt/lr", 0.1), ("opt/sched/name", "cos"), ("seed", 1)]
    assert params.opt.sched.name == params["opt/sched/name"] == "cos"
    assert params.to_dict() == {"opt": {"lr": 0.1, "sched": {"name": "cos"}}, "seed": 1}
    params.opt.sched.warmup = 10
    assert written[-1] == ("opt/sched/warmup", 10)
    assert set(params) == {"opt", "seed"}
    assert params.get("nothing") is None
    assert "opt" in params


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Optimizer(), {"lr": 0.1, "betas": [0.9, 0.95]}),
        (argparse.Namespace(lr=1), {"lr": 1}),
        (PydanticLike(), {"depth": 2}),
        ({"o": Optimizer(lr=2.0)}, {"o/lr": 2.0, "o/betas": [0.9, 0.95]}),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({"empty": {}}, {"empty": {}}),
    ],
)
def test_update_reads_common_config_objects(source: Any, expected: dict[str, Any]) -> None:
    """Mappings, dataclasses, namespaces and similar objects give the same parameters."""
    params, written = config()
    params.update(source)
    assert dict(written) == expected


def test_the_first_value_stays_unless_allowed(caplog: pytest.LogCaptureFixture) -> None:
    """A parameter that changes in mid-run would make every comparison wrong."""
    params, written = config()
    params.lr = 0.1
    params.lr = 0.1
    params.lr = 0.2
    assert params.lr == 0.1
    assert written == [("lr", 0.1)]
    assert "allow_val_change=True" in caplog.text
    params.update({"lr": 0.2}, allow_val_change=True)
    assert params.lr == 0.2
    assert written[-1] == ("lr", 0.2)


def test_strict_config_raises_each_refusal() -> None:
    """The refusals that are otherwise counted raise ConfigError."""
    params, _ = config(strict=True)
    params.lr = 1
    for act in (
        lambda: params.update(lr=2),
        lambda: params.update(7),
        lambda: params.__delitem__("lr"),
        lambda: params.__setitem__("k" * (KEY_CHARS_MAX + 1), 1),
    ):
        with pytest.raises(ConfigError):
            act()


def test_missing_parameter_error_lists_the_others() -> None:
    """The AttributeError names the parameters that exist."""
    params, _ = config()
    params.lr = 1
    with pytest.raises(AttributeError, match="it has: lr"):
        _ = params.learning_rate


def test_cyclic_values_end_at_the_depth_limit() -> None:
    """A mapping that contains itself gives a bounded number of parameters."""
    params, written = config()
    loop: dict[str, Any] = {"x": 1}
    loop["self"] = loop
    params.update(loop)
    assert ("x", 1) in written
    assert len(written) < 20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (2**70, 2**70),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (Color.RED, "RED"),
        (Path("/a/b"), "/a/b"),
        (b"\xffx", "\\xffx"),
        ({3, 1}, [1, 3]),
        (None, None),
        ("é\ud800", "é\ud800"),
    ],
)
def test_json_text_encodes_common_values(value: Any, expected: Any) -> None:
    """Numbers, arrays, enums and paths have their natural JSON form."""
    assert json.loads(json_text(value)) == expected


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: [x], lambda x: {"a": x}])
@pytest.mark.parametrize("kind", [Hostile, object, lambda: print, lambda: int])
def test_json_text_is_valid_for_any_object(make: Any, kind: Any) -> None:
    """Objects without a JSON form, and ones whose repr fails, still give valid JSON."""
    json.loads(json_text(make(kind())))


@pytest.mark.parametrize("value", ["x" * 10**6, "é" * 10**5, ["y" * 50] * 10**4, b"z" * 10**6])
def test_json_text_cuts_huge_values_with_a_note(value: Any) -> None:
    """The text stays within 64 KiB, is valid JSON and says that it was cut."""
    text = json_text(value)
    assert len(text.encode()) <= TEXT_BYTES_MAX
    assert "cut by runwire" in json.loads(text) or isinstance(value, bytes)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_text_never_fails_and_is_valid(value: Any) -> None:
    """Valid by the strict rules: no bare NaN, encodable, bounded."""
    text = json_text(value)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(text, parse_constant=refuse)
    assert len(text.encode("utf-8")) <= TEXT_BYTES_MAX


def test_failing_spool_is_counted_by_config() -> None:
    """An error while recording a parameter is counted and not raised."""

    def fail(_key: str, _text: str) -> None:
        raise OSError("disk")

    guard = Guard()
    params = Config(fail, guard)
    params.lr = 1
    assert guard.counts == {"config": 1}


def test_summary_prefers_explicit_values_over_the_last_logged() -> None:
    """Without an explicit value the last logged one is read."""
    emitted: list[Any] = []
    last: dict[str, Any] = {"loss": 0.5, "acc": 0.9}
    summary = Summary(lambda text: emitted.append(json.loads(text)), lambda: last)
    assert summary["loss"] == 0.5
    summary["loss"] = 0.1
    summary.update({"best": Color.RED}, note="x")
    assert dict(summary) == {"loss": 0.1, "best": Color.RED, "note": "x", "acc": 0.9}
    assert emitted[-1] == {"loss": 0.1, "best": "RED", "note": "x"}
    del summary["loss"]
    assert summary["loss"] == 0.5
    assert "loss" not in emitted[-1]
    with pytest.raises(KeyError):
        _ = summary["nothing"]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_config_is_dumped_as_json_as_it_is_recorded() -> None:
    """`as_dict` is nested and plain, whatever was set; a view gives its own part."""
    params, _ = config()
    params.update({"data": {"root": Path("/d"), "at": datetime.date(2026, 1, 2)}, "c": Color.RED})
    params["data"].id = uuid.UUID(int=5)
    expected = {"root": "/d", "at": "2026-01-02", "id": str(uuid.UUID(int=5))}
    assert json.loads(json.dumps(params.as_dict())) == {"data": expected, "c": "RED"}
    assert params.data.as_dict() == expected
    assert params.to_dict()["data"]["root"] == Path("/d")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "2026-01-02T03:00:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("0.10"), "0.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (fractions.Fraction(1, 3), "1/3"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (np.datetime64("2026-01-02T03", "ns"), "2026-01-02T03:00:00.000000000"),
    ],
)
def test_dates_exact_numbers_and_ids_are_plain_text(value: Any, text: str) -> None:
    """No Python repr: SQL can compare them."""
    assert json.loads(json_text(value)) == text


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copied_config_and_summary_hold_values_and_record_nothing(copied: Any) -> None:
    """They can be saved in a checkpoint or sent to a worker."""
    params, written = config()
    params.update({"opt": {"lr": 0.1}, "seed": 1})
    lines: list[str] = []
    summary = Summary(lines.append, lambda: {"loss": 2.0})
    summary["best"] = 1
    other, again = copied(params), copied(summary)
    other.extra, again["more"] = 2, 3
    assert other.to_dict() == {"opt": {"lr": 0.1}, "seed": 1, "extra": 2}
    assert dict(again) == {"loss": 2.0, "best": 1, "more": 3}
    assert written == [("opt/lr", 0.1), ("seed", 1)]
    assert lines == ['{"best": 1}']
    assert copied(params.opt).to_dict() == {"lr": 0.1}


def test_cycle_or_failing_value_keeps_its_siblings() -> None:
    """One value that cannot be written costs itself alone, in config and in a single text."""

    class Half:
        __dataclass_fields__ = ("good", "bad")
        good = 1

        @property
        def bad(self) -> int:
            raise RuntimeError

    params, written = config()
    loop: dict[str, Any] = {"leaf": 1}
    loop["self"] = loop
    wide: list[Any] = []
    wide += [wide] * 100
    params.update({"loop": loop, "wide": wide, "half": Half(), "bad": Unprintable(), "after": 2})
    found = dict(written)
    assert found["loop/leaf"] == 1
    assert found["half/good"] == 1
    assert found["after"] == 2
    assert {"loop/self", "wide", "half/bad", "bad"} < set(found)


def test_summary_attributes_are_values() -> None:
    """`summary.best = 1` is recorded as `summary["best"] = 1`; a repeated value is not."""
    lines: list[str] = []
    summary = Summary(lines.append)
    summary.best = 1
    summary["best"] = 1
    summary.update(None, best=1)
    assert summary.best == 1
    assert lines == ['{"best": 1}']
    with pytest.raises(AttributeError, match="no value 'worst'"):
        _ = summary.worst
