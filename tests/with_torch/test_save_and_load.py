"""Saving and loading of states, generators, metrics and extra values."""

from __future__ import annotations

import enum
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.run import Run
from runwire_schemas.events import RunEvent
from support.artifacts import artifact_events, events
from support.torch_here import torch

Start = Callable[..., Run]


class Training:
    """A small model, its optimizer and its schedule, some steps in."""

    def __init__(self, steps: int = 3) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=50)
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 8)).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def same(one: Any, other: Any) -> bool:
    """Equal all the way down, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("how", [{}, {"asynchronous": True}], ids=["sync", "async"])
@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_saved_checkpoint_restores_every_part(
    start: Start, how: dict[str, Any], compress: str
) -> None:
    """States, extra, metrics and marks are restored in another attempt, synchronous or not."""
    run = start(settings={"checkpoint_compress": compress})
    saved = Training()
    extra = {"epoch": 3, "seen": [1, 2, (3, None)], "name": "x"}
    wanted = {name: part.state_dict() for name, part in saved.parts.items()}
    wanted = {name: _copied(state) for name, state in wanted.items()}
    run.save_checkpoint(7, **saved.parts, extra=extra, metrics={"loss": 0.5}, is_best=True, **how)
    if how:  # training continues while a thread writes
        torch.nn.init.zeros_(saved.model[0].weight)
    run.finish()
    run = start()
    fresh = Training(steps=0)
    found = run.load_checkpoint("latest", **fresh.parts)
    assert found is not None
    assert (found.step, found.extra, found.metrics) == (7, extra, {"loss": 0.5})
    assert (found.is_best, found.run_id, dict(found.state)) == (True, "r", {})
    for name, part in fresh.parts.items():
        assert same(part.state_dict(), wanted[name]), name
    assert run.load_checkpoint("best").step == run.load_checkpoint(7).step == 7


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state


def test_load_restores_random_generators(start: Start) -> None:
    """After loading, random, numpy and torch continue as they did after the save."""

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1)), random.gauss(0, 1)]

    run, training = start(), Training()
    draw()  # a cached second Gaussian is part of the state
    run.save_checkpoint(1, **training.parts)
    expected = draw()
    draw()
    run.load_checkpoint("latest", **training.parts)
    assert draw() == expected


def test_load_moves_generators_and_step_only_when_resuming(start: Start, root: Path) -> None:
    """Loading the weights alone, to look at them, does not resume the run."""
    run, training = start(), Training()
    run.save_checkpoint(40, **training.parts)
    run.log({"a": 1.0}, 60)
    before = random.getstate()
    run.load_checkpoint(40, model=training.model)
    assert (run.step, random.getstate()) == (61, before)
    run.load_checkpoint(40, **training.parts)
    assert run.step == 41
    run.load_checkpoint(40, model=training.model, resume=True)
    said = [e for e in events(root) if isinstance(e, RunEvent)]
    assert [e.resumed_from_step for e in said if e.resumed_from_step is not None] == [40]
    run.log({"a": 1.0})
    assert run.step == 42


def test_load_returns_none_at_the_first_start(start: Start) -> None:
    """Latest and best are None without any checkpoint; asking for a step raises."""
    run, training = start(), Training()
    assert run.load_checkpoint("latest", **training.parts) is None
    assert run.load_checkpoint("best", **training.parts) is None
    with pytest.raises(runwire.CheckpointError, match="has no checkpoint 5: it has none"):
        run.load_checkpoint(5)


def test_load_from_another_run_does_not_resume_it(start: Start, root: Path) -> None:
    """Lineage records that it was used; the step of this run stays."""
    first, training = start(run_id="first"), Training()
    saved = first.save_checkpoint(9, **training.parts)
    first.finish()
    run = start()
    found = run.load_checkpoint("latest", **Training(steps=0).parts, run_id="first")
    assert (found.run_id, found.step, run.step) == ("first", 9, 0)
    (used,) = [e for e in artifact_events(root) if e.event == "used"]
    assert used.artifact == saved.artifact


def test_wrapped_model_loads_into_the_plain_model(start: Start) -> None:
    """The state of a DataParallel model is saved without the wrapper."""
    run, model = start(), torch.nn.Linear(3, 3)
    run.save_checkpoint(1, model=torch.nn.DataParallel(model))
    plain = torch.nn.Linear(3, 3)
    run.load_checkpoint(1, model=plain)
    assert torch.equal(plain.weight, model.weight)


def test_collections_of_models_and_optimizers_are_restored(start: Start) -> None:
    """Dicts of models and lists of optimizers get their states back by key and position."""
    run = start()
    models = {"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 2)}
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models.values()]
    run.save_checkpoint(1, model=models, optimizer=optimizers)
    fresh = {"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 2)}
    run.load_checkpoint(1, model=fresh, optimizer=optimizers)
    assert same(fresh["d"].state_dict(), models["d"].state_dict())


def test_plain_state_dicts_come_back_as_saved(start: Start) -> None:
    """A state for which no object is given is returned in `state`."""
    run = start()
    state = OrderedDict(w=torch.arange(3), n=np.float32(1.5), a=np.arange(4), k=Color.RED)
    run.save_checkpoint(1, model=state, extra=np.random.default_rng(1).bit_generator.state)
    found = run.load_checkpoint(1)
    assert torch.equal(found.state["model"]["w"], torch.arange(3))
    assert torch.equal(found.state["model"]["a"], torch.arange(4))
    assert (found.state["model"]["n"], found.state["model"]["k"]) == (1.5, 1)
    generator = np.random.default_rng()
    generator.bit_generator.state = found.extra
    assert generator.random() == np.random.default_rng(1).random()


class Color(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("what", "place"),
    [
        (lambda: {"a": [1, object()]}, r"extra\['a'\]\[1\] is a builtins.object"),
        (lambda: print, "extra is a builtins.builtin_function_or_method"),
        (lambda: {"m": torch.empty(3, device="meta")}, r"extra\['m'\] is on the meta device"),
        (lambda: np.array([object()]), r"extra\[0\] is a builtins.object"),
    ],
)
def test_save_refuses_values_that_cannot_be_loaded(
    start: Start, what: Callable[[], Any], place: str
) -> None:
    """Objects, functions and meta tensors are refused with their place, and nothing is saved."""
    run = start()
    with pytest.raises(runwire.CheckpointError, match=place):
        run.save_checkpoint(1, extra=what())
    assert run.load_checkpoint() is None


def test_tied_weights_are_stored_once(start: Start, root: Path) -> None:
    """Two modules that share a weight take the space of one."""
    run, table = start(), torch.nn.Embedding(1000, 64)
    head = torch.nn.Linear(64, 1000, bias=False)
    head.weight = table.weight
    for asynchronous in (False, True):
        saved = run.save_checkpoint(
            1, model={"table": table, "head": head}, asynchronous=asynchronous
        )
        assert saved.wait()
        assert (saved.path / "state.pt").stat().st_size < 1.5 * table.weight.nbytes


def test_slice_of_a_tensor_is_saved_without_the_rest(start: Start) -> None:
    """A small view of a large tensor takes the space of the view."""
    run, large = start(), torch.zeros(1_000_000)
    saved = run.save_checkpoint(1, extra={"first": large[:10]})
    assert (saved.path / "state.pt").stat().st_size < 100_000


def test_load_names_a_state_that_was_not_saved(start: Start) -> None:
    """The sentence names the missing state and lists the saved ones."""
    run, training = start(), Training()
    run.save_checkpoint(1, model=training.model)
    with pytest.raises(runwire.CheckpointError, match=r"no state of optimizer \(it has: model\)"):
        run.load_checkpoint(1, **{k: training.parts[k] for k in ("model", "optimizer")})


def test_load_passes_strict_on_to_torch(start: Start) -> None:
    """A model with another shape of state fails as in torch, and loads with strict=False."""
    run = start()
    run.save_checkpoint(1, model=torch.nn.Linear(2, 2, bias=False))
    with pytest.raises(RuntimeError, match="bias"):
        run.load_checkpoint(1, model=torch.nn.Linear(2, 2))
    run.load_checkpoint(1, model=torch.nn.Linear(2, 2), strict=False)


def test_retention_keeps_the_best_and_never_prefers_nan(start: Start) -> None:
    """A NaN is never the best, and retention keeps the last good checkpoint however old."""
    rules = {"checkpoint_keep_last": 2, "checkpoint_keep_best": 1, "checkpoint_metric": "loss"}
    run, model = start(settings=rules), torch.nn.Linear(2, 2)
    losses = [3.0, 1.0, 2.0, *[float("nan")] * 4]
    for step, loss in enumerate(losses):
        run.save_checkpoint(step, model=model, metrics={"loss": loss})
    assert run.load_checkpoint("best").step == 1
    assert run.load_checkpoint("latest").step == 6
    for gone in (0, 3, 4):
        with pytest.raises(runwire.CheckpointError, match=r"complete ones: steps 1, 2, 5, 6"):
            run.load_checkpoint(gone)


@pytest.mark.parametrize("way", ["marked", "measured"])
def test_step_saved_again_stays_the_best_unless_it_is_marked_anew(start: Start, way: str) -> None:
    """Scripts save once more at their end; new metrics or a new mark in that call count."""
    rules = {"checkpoint_keep_last": 1, "checkpoint_keep_best": 1, "checkpoint_metric": "loss"}
    run, model = start(settings=rules if way == "measured" else {}), torch.nn.Linear(2, 2)
    run.save_checkpoint(1, model=model, metrics={"loss": 3.0}, is_best=way == "marked")
    run.save_checkpoint(2, model=model, metrics={"loss": 1.0}, is_best=way == "marked")
    run.save_checkpoint(2, model=model, extra="last")
    assert run.load_checkpoint("best").extra == "last"
    run.save_checkpoint(3, model=model)
    best = run.load_checkpoint("best")
    assert (best.step, best.metrics) == (2, {"loss": 1.0})
    run.save_checkpoint(3, model=model, metrics={"loss": 0.5}, is_best=True)
    assert run.load_checkpoint("best").step == 3


def test_read_checkpoint_reads_a_lone_file_without_a_run(start: Start, tmp_path: Path) -> None:
    """A folder, a compressed file and its folder elsewhere are read by path alone."""
    run = start(settings={"checkpoint_compress": "zstd"})
    saved = run.save_checkpoint(3, model=torch.nn.Linear(2, 2), extra="e")
    lone = tmp_path / "lone" / "state.pt.zst"
    lone.parent.mkdir()
    lone.write_bytes((saved.path / "state.pt.zst").read_bytes())
    for path in (saved.path, lone, lone.parent):
        found = runwire.read_checkpoint(path)
        assert (found.step, found.extra, list(found.model)) == (3, "e", ["weight", "bias"])


def test_full_checkpoint_is_saved_by_rank_0_only(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other ranks the call saves nothing and returns no path."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    run = start()
    assert run.save_checkpoint(1, model=torch.nn.Linear(2, 2)).path is None
    assert run.load_checkpoint() is None


def test_sharded_checkpoint_counts_once_every_rank_saved(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It loads only when all parts are there, and each rank gets its own part back."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    runs = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr("runwire.start._started", 0)  # as in a process of its own
        runs.append(start())
    for step in (1, 2):
        for rank, run in enumerate(runs):
            if (step, rank) != (2, 1):
                run.save_checkpoint(step, extra=(step, rank), kind="sharded")
            if (step, rank) == (1, 0):
                assert run.load_checkpoint() is None
                assert "step 1 lacks ranks 1" in caplog.text
    assert [run.load_checkpoint().extra for run in runs] == [(1, 0), (1, 1)]
    runs[1].save_checkpoint(2, extra=(2, 1), kind="sharded")
    assert [run.load_checkpoint().extra for run in runs] == [(2, 0), (2, 1)]


def test_disabled_runs_save_and_load_too(start: Start, root: Path) -> None:
    """A checkpoint is the user's data; nothing is recorded or sent."""
    run, training = start(mode="disabled"), Training()
    assert run.save_checkpoint(4, **training.parts).wait()
    assert run.load_checkpoint("latest", **training.parts).step == 4
    assert not (root / "outbox").exists()
