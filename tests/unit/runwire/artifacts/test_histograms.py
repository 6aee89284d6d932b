"""Histograms: counted right, wrong values reported by the call that logs them."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runwire import ArtifactError, Histogram
from runwire.run import Run
from support.artifacts import log_events, requests
from support.tensors import Tensor


def test_log_histogram_records_edges_and_counts_as_json(root: Path, run: Run) -> None:
    """It is no artifact: the record has edges and counts under its name and step."""
    run.log_histogram("grad", Histogram([0, 1, 2], [3, 4]), step=5)
    (event,) = log_events(root)
    assert (event.stream, event.name, event.step) == ("histogram", "grad", 5)
    assert json.loads(event.text) == {"edges": [0.0, 1.0, 2.0], "counts": [3, 4]}
    assert requests(root) == []


def test_largest_histogram_fits_one_record(root: Path, run: Run, seed: int) -> None:
    """1024 bins of long numbers are recorded uncut."""
    chance = random.Random(seed)
    edges = sorted(chance.uniform(-1e307, 1e307) for _ in range(1025))
    run.log_histogram("h", Histogram(edges, [chance.uniform(0, 1e300) for _ in range(1024)]))
    (event,) = log_events(root)
    assert json.loads(event.text)["edges"] == edges


def test_histogram_agrees_with_numpy(seed: int) -> None:
    """Plain lists, arrays of any shape and tensors give the same histogram."""
    values = np.random.default_rng(seed).normal(size=(50, 20)).astype("float32")
    counts, edges = np.histogram(values.astype("float64"), bins=64)
    for given in (values, Tensor(values), values.reshape(-1).tolist()):
        found = Histogram.of(given)
        assert np.allclose(found.edges, edges)
        assert sum(found.counts) == values.size
        assert np.abs(np.array(found.counts) - counts).sum() <= 4  # a value on an edge
    mixed = Histogram.of([1.0, math.nan, 3.0, math.inf], bins=2)
    assert mixed == Histogram.of(np.array([1.0, math.nan, 3.0, math.inf]), bins=2)
    assert mixed == Histogram([1, 2, 3], [1, 1])
    assert Histogram.of([2, 2, 2], bins=1) == Histogram([1.5, 2.5], [3])
    assert Histogram.of(np.array([True, False]), bins=1) == Histogram([0, 1], [2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Histogram([0, 1], []),
        lambda: Histogram([0, 1], [1, 2]),
        lambda: Histogram([1, 0], [1]),
        lambda: Histogram([0, math.inf], [1]),
        lambda: Histogram([0, 1], [-1]),
        lambda: Histogram([0, 1], [math.nan]),
        lambda: Histogram.of([]),
        lambda: Histogram.of(np.array([math.nan])),
        lambda: Histogram.of([1.0], bins=0),
        lambda: Histogram.of([-1.7e308, 1.7e308]),
        lambda: Histogram.of(Tensor(np.zeros(1), is_cuda=True)),
        lambda: Histogram(None, 3),  # type: ignore[arg-type]
        lambda: Histogram(["a", "b"], [1]),  # type: ignore[list-item]
        lambda: Histogram.of([1.0], bins="x"),  # type: ignore[arg-type]
        lambda: Histogram.of(np.array(["a"])),
    ],
)
def test_invalid_histogram_is_refused_when_it_is_logged(root: Path, run: Run, make: Any) -> None:
    """It is made silently and refused when logged: a NaN must not end a training."""
    made = make()
    with pytest.raises(ArtifactError):
        run.log_histogram("h", made)
    assert log_events(root) == []


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (None, "not a NoneType"),
        ("abc", "not a str"),
        ("123", "not a str"),
        (5, "not a int"),
        ({"a": 1}, "not a dict"),
        (["a"], "a str among"),
        ([[1.0]], "a list among"),
        ([None], "a NoneType among"),
    ],
)
def test_log_histogram_refuses_values_that_are_not_numbers(
    run: Run, values: Any, match: str
) -> None:
    """None, texts, mappings and nested lists are refused with their type."""
    with pytest.raises(ArtifactError, match=match):
        run.log_histogram("h", values)


def test_invalid_histogram_is_counted_unless_strict(root: Path, lenient: Run) -> None:
    """A failed log_histogram is counted and raises nothing."""
    lenient.log_histogram("h", None)
    lenient.log_histogram("h", Histogram.of([math.nan]))
    assert lenient.guard.counts.pop("log_histogram") == 2
    assert log_events(root) == []


@pytest.mark.parametrize("bins", [1, 64, 1024])
@pytest.mark.parametrize(
    "values",
    [
        [1e17] * 3,
        [-1e17] * 3,
        [1e17, math.nextafter(1e17, math.inf)],
        [1.0, math.nextafter(1.0, 2.0)],
        [0.0, 5e-324],
        [5e-324] * 2,
        [0.0],
        [sys.float_info.max],
        [-sys.float_info.max],
        [math.nextafter(sys.float_info.max, 0), sys.float_info.max],
        [0.0, sys.float_info.max],
    ],
)
def test_edges_rise_for_values_too_close_for_bins(values: list[float], bins: int) -> None:
    """Doubles so large that half of one more is the same, or neighbours: the edges still rise."""
    for given in (values, np.array(values)):
        made = Histogram.of(given, bins)
        assert json.loads(made.as_json())["counts"] == made.counts
        assert sum(made.counts) == len(values)
        assert made.edges[0] <= min(values) <= max(values) <= made.edges[-1]
