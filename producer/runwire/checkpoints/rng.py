"""States of the random generators that training draws from, as plain values and byte tensors.

Covered: `random`, numpy's global (legacy) generator, torch on the CPU and on every CUDA device.
Generators that the trainer made itself are its own: their states belong into `extra`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["capture_rng", "restore_rng"]


def capture_rng() -> dict[str, Any]:
    """Return the states of all global generators in use; imports and initialises nothing."""
    states: dict[str, Any] = {"python": random.getstate()}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        # As plain ints: the loader that executes nothing knows no numpy objects.
        states["numpy"] = (str(name), keys.tolist(), *(_plain(value) for value in rest))
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["cuda"] = list(torch.cuda.get_rng_state_all())
    return states


def restore_rng(states: Mapping[str, Any]) -> list[str]:
    """Continue the generators where `states` left them; return what could not be, as sentences."""
    problems = []
    if "python" in states:
        random.setstate(states["python"])
    if "numpy" in states:
        numpy = _imported("numpy")
        if numpy is None:
            problems.append("numpy is not installed, its random state stays as it is")
        else:
            name, keys, *rest = states["numpy"]
            numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    if "torch" in states:
        import torch

        torch.set_rng_state(states["torch"].cpu())
        problems += _restore_cuda(torch, states.get("cuda", ()))
    return problems


def _restore_cuda(torch: Any, saved: Any) -> list[str]:
    if not len(saved) or not torch.cuda.is_available():
        return ["the checkpoint has random states of CUDA devices and there are none here"][
            : len(saved)
        ]
    count = torch.cuda.device_count()
    for device in range(min(count, len(saved))):
        torch.cuda.set_rng_state(saved[device].cpu(), device)
    if count == len(saved):
        return []
    return [f"the checkpoint has random states of {len(saved)} CUDA devices, here are {count}"]


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
