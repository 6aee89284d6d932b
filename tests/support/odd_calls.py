"""Odd values, and calls of every public function with them: what a trainer may pass by mistake."""

from __future__ import annotations

import datetime
import decimal
import enum
import itertools
import logging
import os
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

import runwire
from runwire import Artifact, Histogram
from runwire.arguments import arguments_of
from runwire.errors import RunwireError
from runwire.metrics.log import MetricLog
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import Event, MetricBatch, RunEvent


class SubText(str):
    """A str whose own methods fail."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Color(enum.Enum):
    RED = 1


class Mood(enum.StrEnum):
    GOOD = "good"


class Level(enum.IntEnum):
    ONE = 1


class Broken:
    """Whatever Python asks of it fails."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    __str__ = __repr__ = __float__ = __int__ = __index__ = __bool__ = _fail
    __len__ = __iter__ = __eq__ = __fspath__ = __getitem__ = __contains__ = __bytes__ = _fail
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"broken {name}")


class BrokenMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        raise RuntimeError("no length")


class Liar:
    """Pretends to be a class that cannot be looked at."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise RuntimeError("no class")


def _cycle() -> dict[str, Any]:
    loop: dict[str, Any] = {"leaf": 1}
    loop["self"] = loop
    return loop


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "int": lambda: 5,
    "negative": lambda: -3,
    "huge": lambda: 2**63,
    "enormous": lambda: 10**400,
    "float": lambda: 1.5,
    "NaN": lambda: float("nan"),
    "infinite": lambda: float("inf"),
    "complex": lambda: 1j,
    "text": lambda: "word",
    "empty": lambda: "",
    "long": lambda: "x" * 100_000,
    "surrogate": lambda: "a\udcffb",
    "nul": lambda: "a\0b",
    "bytes": lambda: b"\xff\x00",
    "sub text": lambda: SubText("sub"),
    "enum": lambda: Color.RED,
    "text enum": lambda: Mood.GOOD,
    "int enum": lambda: Level.ONE,
    "int64": lambda: np.int64(7),
    "float32": lambda: np.float32(0.5),
    "bool_": lambda: np.bool_(True),
    "str_": lambda: np.str_("np"),
    "datetime64": lambda: np.datetime64("2026-01-02"),
    "array": lambda: np.arange(3.0),
    "empty array": lambda: np.zeros((0, 2)),
    "path": lambda: Path("some/where"),
    "date": lambda: datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC),
    "decimal": lambda: decimal.Decimal("0.1"),
    "uuid": lambda: uuid.UUID(int=7),
    "list": lambda: [1, "two", Broken()],
    "mapping": lambda: {"k": "v", 3: Broken(), Broken(): 4},
    "cycle": _cycle,
    "broken": Broken,
    "broken mapping": BrokenMapping,
    "liar": Liar,
    "class": lambda: Broken,
    "function": lambda: print,
    "generator": lambda: (n for n in range(3)),
    "exception": lambda: ValueError(Broken()),
}


# `attached` is how a worker process gets its run; `active_run` takes nothing.
NO_CALLS = {"attached", "active_run"}
# Calls whose result the caller needs: they raise what runwire raises on purpose.
RAISING = {"use_artifact", "load_checkpoint", "read_checkpoint"}
# Calls whose record carries no name of the caller's.
TRACELESS = {
    *RAISING, "save_checkpoint", "log_checkpoint", "phase", "flush", "finish", "capture_exception",
}  # fmt: skip
STARTING = {"init", "start_run"}
# Arguments that decide where a run is recorded: unusable ones start no run.
PLACES = {"project", "run_id", "id", "resume", "reinit", "mode", "dir", "ranks", "settings"}

# Arguments that are what the call records: without them nothing is left to keep.
CONTENTS = {"img", "fig", "rows", "values", "path"}
# Objects that torch gets; its own errors pass where the caller needs the result.
OF_TORCH = {"model", "optimizer", "scheduler", "map_location"}
# These import torch; the short form of the others does not wait for that.
WITH_TORCH = {"save_checkpoint", "read_checkpoint"}
# Each call of these takes long: one value per argument in the short form.
SLOW = {"save_checkpoint", "log_checkpoint", "load_checkpoint", "read_checkpoint"}
# Valid times to wait, which `finish` would then do; what `flush` falls back to is one, too.
WAITS = {"int", "float", "int enum", "int64", "float32", "decimal"}


class Figure:
    """As much of a matplotlib figure as `log_figure` uses."""

    def savefig(self, file: Any, **_: Any) -> None:
        file.write(b"png")


def good_arguments(folder: Path) -> dict[str, Callable[[str], dict[str, Any]]]:
    """For each public call, arguments that it accepts; the name marks what it records."""
    file = folder / "file.txt"
    file.write_text("content")
    pixels = np.zeros((2, 2), dtype="uint8")
    return {
        "log": lambda name: {"data": {name: 1.0}},
        "log_metric": lambda name: {"key": name, "value": 1.0},
        "log_metrics": lambda name: {"data": {name: 1.0}},
        "log_param": lambda name: {"key": name, "value": 1},
        "log_params": lambda name: {"params": {name: 1}},
        "log_text": lambda name: {"text": "text", "name": name},
        "log_artifact": lambda name: {"path": file, "name": name},
        "log_image": lambda name: {"img": pixels, "name": name},
        "log_figure": lambda name: {"fig": Figure(), "name": name},
        "log_table": lambda name: {"rows": [{"a": 1}], "name": name},
        "log_histogram": lambda name: {"name": name, "values": [1.0, 2.0]},
        "use_artifact": lambda name: {"ref": name},
        "save_checkpoint": lambda _: {"step": 1, "extra": {"epoch": 1}},
        "log_checkpoint": lambda _: {"path": file, "step": 1},
        "load_checkpoint": lambda _: {"which": "latest"},
        "read_checkpoint": lambda _: {"path": file},
        "set_tag": lambda name: {"key": name, "value": "v"},
        "set_tags": lambda name: {"tags": {name: "v"}},
        "add_tags": lambda name: {"names": name},
        "define_metric": lambda name: {"name": name},
        "phase": lambda name: {"name": name},
        "capture_exception": lambda name: {"exc": ValueError(name)},
        "mark_preempting": lambda name: {"reason": name},
        "flush": lambda _: {"timeout": 0},
        "finish": lambda _: {},
        "init": lambda name: {"name": name},
        "start_run": lambda name: {"run_name": name},
    }


def arguments(function: Any) -> tuple[str, ...]:
    """The declared arguments of a public call."""
    table = arguments_of(function)
    return tuple(table.kinds) if table is not None else ()


class Messages(logging.Handler):
    """The sentences that runwire logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger("runwire").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("runwire").removeHandler(self)


@dataclass
class Trial:
    """All odd values, or some drawn from the seed, in every argument of one public call."""

    name: str
    folder: Path
    seed: int
    count: int | None = None
    strict: bool = False
    findings: list[str] = field(default_factory=list)
    tried: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self) -> list[str]:
        """Return what was wrong, a sentence each."""
        with Messages() as messages:
            if self.name in STARTING:
                self._starts(messages)
            elif self.name == "finish":
                self._finishes()
            else:
                self._calls(messages)
        return self.findings

    def _values(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        names = list(ODD)
        if self.count is not None:
            drawn = random.Random(f"{self.seed} {self.name}").sample(names, self.count)
            names = list(dict.fromkeys(["broken", "huge", *drawn]))
            names = names[:1] if self.name in SLOW else names
        return ((name, ODD[name]) for name in names)

    def _cases(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Yield (argument, label, name, arguments of the call)."""
        good = good_arguments(self.folder)[self.name]
        for argument in arguments(functions()[self.name]):
            for label, make in self._values():
                is_waiting = label in WAITS or self.name == "flush"
                if argument == "timeout" and is_waiting and label != "None":
                    continue
                name = f"odd-{self.name}-{next(self._numbers)}-end"
                self.tried += 1
                yield argument, label, name, {**good(name), argument: make()}

    def _calls(self, messages: Messages) -> None:
        kept: dict[str, str] = {}
        counted: dict[str, int] = {}
        run = runwire.init("odd", name="intact", settings={"strict": self.strict})
        run.log({"before": 1.0})
        for argument, label, name, given in self._cases():
            before = sum(run.guard.counts.values())
            # By both ways that trainers call it.
            places = [place for place in (runwire, run) if hasattr(place, self.name)]
            call = getattr(places[self.tried % len(places)], self.name)
            self._try(call, given, f"{argument}={label}")
            is_content = argument in CONTENTS or (self.name, argument) == ("log_metric", "value")
            is_named = not is_content and any(
                name in repr(value) for key, value in given.items() if key != argument
            )
            if is_named and self.name not in TRACELESS and not self.strict:
                kept[name] = f"{argument}={label}"
            counted[argument] = counted.get(argument, 0) + sum(run.guard.counts.values()) - before
        run.log({"after": 1.0})
        run.finish()
        self._check_spool(kept, {"before", "after"})
        if not self.strict:
            self._check_sentences(messages, counted)

    def _try(self, call: Any, given: dict[str, Any], what: str) -> Any:
        given = dict(given)
        rest = [given.pop("names")] if "names" in given else []
        try:
            return call(*rest, **given)
        except RunwireError as error:
            if not self.strict and self.name not in RAISING:
                self.findings.append(f"{self.name}({what}) raised {error!r}")
        except Exception as error:
            passes = self.name in RAISING and (
                isinstance(error, OSError) or what.partition("=")[0] in OF_TORCH
            )
            if not self.strict and not passes:
                self.findings.append(f"{self.name}({what}) raised {type(error).__name__}")
        return None

    def _check_sentences(self, messages: Messages, counted: dict[str, int]) -> None:
        for argument, count in counted.items():
            named = [
                line
                for line in messages.lines
                if (self.name in line or "log" in line or "config" in line)
                and (argument in line or f"odd-{self.name}-" in line)
            ]
            # What is wrong inside a checkpoint is reported by the name of the checkpoint.
            is_inside = argument in ("data", "params", "value") or self.name.endswith("checkpoint")
            if count and not named and not is_inside:
                self.findings.append(f"{self.name}: no sentence names {argument}")

    def _check_spool(self, kept: dict[str, str], metrics: set[str]) -> None:
        events = list(self._events())
        text = repr(events)
        self.findings += [
            f"{self.name}({what}): lost" for name, what in kept.items() if name not in text
        ]
        found = {name for one in events if isinstance(one, MetricBatch) for name in one.names}
        if not metrics <= found:
            self.findings.append(f"{self.name}: lost {metrics - found}")
        runs = [one for one in events if isinstance(one, RunEvent)]
        ends = [one for one in runs if one.event == "finished"]
        starts = [one for one in runs if one.event == "started"]
        if len(starts) != len(ends):
            self.findings.append(f"{self.name}: {len(starts)} runs started, {len(ends)} ended")
        bad = {str(one.status) for one in ends} - {"finished", "failed" if self.strict else ""}
        if bad and self.name != "finish":
            self.findings.append(f"{self.name}: ended as {bad}")

    def _events(self) -> Iterator[Event]:
        """All events of the spool, as a worker would read them."""
        for folder in list_folders(Path(os.environ["RUNWIRE_DIR"])):
            reader = FolderReader(folder)
            while cuts := reader.cut():
                for cut in cuts:
                    if cut.damage:
                        self.findings.append(f"{self.name}: damaged: {cut.damage}")
                    if cut.value:
                        yield codec.decode(cut.value)
            reader.close()

    def _starts(self, messages: Messages) -> None:
        kept: dict[str, str] = {}
        function = getattr(runwire, self.name)
        for argument, label, name, given in self._cases():
            what = f"{argument}={label}"
            try:
                run = function(**({"settings": {"strict": True}} if self.strict else {}) | given)
            except RunwireError as error:
                if argument not in PLACES and not self.strict:
                    self.findings.append(f"{self.name}({what}) raised {error!r}")
                continue
            except Exception as error:
                self.findings.append(f"{self.name}({what}) raised {error!r}")
                continue
            run.log({"before": 1.0})
            run.finish()
            if argument not in PLACES | {"name", "run_name"} and not self.strict:
                kept[name] = what
        self._check_spool(kept, {"before"})

    def run_objects(self) -> list[str]:
        """Do what `name` says in `OBJECT_CALLS` with every odd value; return what was wrong."""
        run = runwire.init("odd", name="intact")
        run.log({"before": 1.0})
        for label, make in self._values():
            try:
                OBJECT_CALLS[self.name](run, make())
            except Exception as error:
                self.findings.append(f"{self.name} ({label}) raised {type(error).__name__}")
        run.log({"after": 1.0})
        run.finish()
        self._check_spool({}, {"before", "after"})
        return self.findings

    def _finishes(self) -> None:
        for argument, label, _, given in self._cases():
            run = runwire.init("odd", settings={"strict": self.strict})
            run.log({"before": 1.0})
            self._try(run.finish, given, f"{argument}={label}")
            run.finish()
        self._check_spool({}, {"before"})


def _kept(run: Any, **given: Any) -> None:
    run.log_artifact(Artifact(**{"name": "a", **given}).add_bytes(b"x", "f"))


# What users call on objects that belong to a run, with one odd value each.
OBJECT_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "config.update": lambda run, odd: run.config.update(odd),
    "config value": lambda run, odd: run.config.__setitem__(f"k{id(odd)}", odd),
    "config name": lambda run, odd: run.config.__setitem__(odd, 1),
    "config attribute": lambda run, odd: setattr(run.config, f"a{id(odd)}", odd),
    "config inside": lambda run, odd: run.config.update({"in": {"a": odd}}, allow_val_change=True),
    "config removal": lambda run, odd: run.config.__delitem__(odd),
    "summary.update": lambda run, odd: run.summary.update(odd),
    "summary value": lambda run, odd: run.summary.__setitem__("k", odd),
    "summary name": lambda run, odd: run.summary.__setitem__(odd, 1),
    "summary attribute": lambda run, odd: setattr(run.summary, "best", odd),
    "artifact name": lambda run, odd: _kept(run, name=odd),
    "artifact type": lambda run, odd: _kept(run, type=odd),
    "artifact metadata": lambda run, odd: _kept(run, metadata=odd),
    "artifact aliases": lambda run, odd: _kept(run, aliases=odd),
    "artifact file": lambda run, odd: run.log_artifact(Artifact("a").add_file(odd)),
    "artifact file name": lambda run, odd: run.log_artifact(Artifact("a").add_file("f", odd)),
    "artifact folder": lambda run, odd: run.log_artifact(Artifact("a").add_dir(odd)),
    "artifact bytes": lambda run, odd: run.log_artifact(Artifact("a").add_bytes(odd, "f")),
    "artifact bytes name": lambda run, odd: run.log_artifact(Artifact("a").add_bytes(b"x", odd)),
    "artifact reference": lambda run, odd: run.log_artifact(Artifact("a").add_reference(odd)),
    "artifact policy": lambda run, odd: run.log_artifact(Artifact("a").add_file("f", policy=odd)),
    "histogram edges": lambda run, odd: run.log_histogram("h", Histogram(odd, [1])),
    "histogram counts": lambda run, odd: run.log_histogram("h", Histogram([0.0, 1.0], odd)),
    "histogram of": lambda run, odd: run.log_histogram("h", Histogram.of(odd)),
    "histogram bins": lambda run, odd: run.log_histogram("h", Histogram.of([1.0, 2.0], odd)),
}


def functions() -> dict[str, Any]:
    """Every public function of the package and public method of a run, by name."""
    run = {name: getattr(runwire.Run, name) for name in dir(runwire.Run) if name[0] != "_"}
    of_package = {name: getattr(runwire, name) for name in runwire.__all__}
    found = {**of_package, **run, "log": MetricLog.log}
    return {
        name: value
        for name, value in found.items()
        if callable(value) and not isinstance(value, type) and name not in NO_CALLS
    }
