"""States of the random generators in use: read for a checkpoint, set when training resumes.

Covered are `random`, numpy's global (legacy) generator, and torch on the CPU and on every CUDA
device. Generators that the trainer made itself are not: their states belong into `extra`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["capture_rng", "restore_rng"]

# Beside the usual MT19937; their states are numbers and arrays of 64-bit words.
_BIT_GENERATORS: Final = ("PCG64", "PCG64DXSM", "Philox", "SFC64")


def capture_rng() -> tuple[dict[str, Any], list[str]]:
    """Return the states of all global generators in use, and a sentence per failure.

    Imports and initialises nothing.
    """
    states: dict[str, Any] = {"python": random.getstate()}
    problems = []
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        try:
            states["numpy"] = _numpy_state(numpy)
        except (LookupError, TypeError) as error:
            problems.append(f"numpy's random state is not in the checkpoint: {error}")
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["cuda"] = list(torch.cuda.get_rng_state_all())
    return states, problems


def restore_rng(states: Mapping[str, Any]) -> list[str]:
    """Set the generators to `states`; return a sentence for each that could not be."""
    problems = []
    if "python" in states:
        random.setstate(states["python"])
    if "numpy" in states:
        numpy = _try_import("numpy")
        if numpy is None:
            problems.append("numpy is not installed, its random state stays as it is")
        else:
            problems += _restore_numpy(numpy, states["numpy"])
    if "torch" in states:
        import torch

        torch.set_rng_state(states["torch"].cpu())
        problems += _restore_cuda(torch, states.get("cuda", ()))
    return problems


def _numpy_state(numpy: Any) -> Any:
    """Return numpy's state as plain values: the safe loader refuses numpy objects.

    Raises: TypeError for a generator that is not numpy's own.
    """
    state = numpy.random.get_state(legacy=False)
    name = state["bit_generator"]
    if name == "MT19937":  # the default, in the form that all versions of this package read
        keys, pos = state["state"]["key"], state["state"]["pos"]
        return (name, *map(_plain_numbers, (keys, pos, state["has_gauss"], state["gauss"])))
    # Another one was set by numpy.random.set_bit_generator.
    if name not in _BIT_GENERATORS:
        raise TypeError(
            f"{name} is not one of numpy's own generators; put its state into extra yourself"
        )
    return _plain_numbers(state)


def _restore_numpy(numpy: Any, state: Any) -> list[str]:
    name = state["bit_generator"] if isinstance(state, Mapping) else state[0]
    current = numpy.random.get_state(legacy=False)["bit_generator"]
    try:
        if name != current:
            numpy.random.set_bit_generator(getattr(numpy.random, name)())
        if isinstance(state, Mapping):
            numpy.random.set_state(_arrays(numpy, state))
        else:
            _, keys, *rest = state
            numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    except (AttributeError, ValueError) as error:
        return [f"numpy's random state stays as it is, this numpy cannot use {name}: {error}"]
    return []


def _arrays(numpy: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists of a generator's state back into arrays."""
    return {
        key: _arrays(numpy, value)
        if isinstance(value, Mapping)
        else numpy.array(value, dtype=numpy.uint64)
        if isinstance(value, list)
        else value
        for key, value in state.items()
    }


def _restore_cuda(torch: Any, saved: Any) -> list[str]:
    if not len(saved) or not torch.cuda.is_available():
        return ["the checkpoint has random states of CUDA devices and this machine has none"][
            : len(saved)
        ]
    count = torch.cuda.device_count()
    for device in range(min(count, len(saved))):
        torch.cuda.set_rng_state(saved[device].cpu(), device)
    if count == len(saved):
        return []
    return [
        f"the checkpoint has random states of {len(saved)} CUDA devices, this machine has {count}"
    ]


def _try_import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain_numbers(inner) for key, inner in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
