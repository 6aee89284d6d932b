"""Snapshots: the state of training as plain values and tensors, which the safe loader accepts.

`torch.load(weights_only=True)` builds tensors, numbers, texts and containers and nothing else, so
a value of any other class is refused when it is saved, and the error names its place.

Random generators: `random`, numpy's global (legacy) one, torch on the CPU and on every CUDA device.
Generators that the trainer made itself are not covered: their states belong into `extra`.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from runwire.errors import CheckpointError

__all__ = [
    "Snapshot",
    "capture_rng",
    "check_collective",
    "restore_rng",
    "state_of",
    "unwrap",
]

_SHARDED = ("DTensor", "ShardedTensor")
_COLLECTIVE = "FullyShardedDataParallel"
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module"}
# torch's own values that its safe loader rebuilds.
_TORCH_VALUES = ("Size", "device", "dtype")
# The safe loader reads whole numbers of up to 255 bytes, their sign included.
_INT_BITS_MAX = 255 * 8 - 1
# Far below Python's own limit, at which saving would fail without naming the place.
_DEPTH_MAX = 100
# Beside the usual MT19937; their states are numbers and arrays of 64-bit words.
_BIT_GENERATORS: Final = ("PCG64", "PCG64DXSM", "Philox", "SFC64")


def unwrap(model: Any) -> Any:
    """Return the module inside torch.compile and data-parallel wrappers: same names everywhere."""
    while True:
        if type(model).__name__ == "OptimizedModule" and hasattr(model, "_orig_mod"):
            model = model._orig_mod  # noqa: SLF001 - torch.compile offers no other way
        elif type(model).__name__ in _WRAPPERS:
            model = getattr(model, _WRAPPERS[type(model).__name__])
        else:
            return model


def check_collective(thing: Any, place: str) -> None:
    """Refuse a module whose state_dict() waits for ranks that do not call it.

    Raises: CheckpointError.
    """
    parts = thing.modules() if callable(getattr(thing, "modules", None)) else ()
    if any(type(part).__name__ == _COLLECTIVE for part in parts):
        raise CheckpointError(
            f"{place} is sharded by {_COLLECTIVE}: all ranks have to gather its state, and only "
            "this one saves, so the call would wait for ever. Save with torch.distributed."
            "checkpoint on all ranks and pass the folder to log_checkpoint(path, step=..., "
            f"kind='dcp'), or call {place}.state_dict() on all ranks and save what it returns"
        )


class Nesting:
    """The containers around a value, for finding those that contain themselves."""

    def __init__(self) -> None:
        self._around: set[int] = set()

    @contextlib.contextmanager
    def inside(self, container: Any, place: str) -> Iterator[None]:
        """Enter a container. Raises: CheckpointError when it is too deep or contains itself."""
        if id(container) in self._around:
            raise CheckpointError(f"{place} contains itself, which a checkpoint cannot hold")
        if len(self._around) >= _DEPTH_MAX:
            raise CheckpointError(f"{place:.200} is inside more than {_DEPTH_MAX} containers")
        self._around.add(id(container))
        try:
            yield
        finally:
            self._around.discard(id(container))


def state_of(thing: Any, place: str, nesting: Nesting | None = None) -> Any:
    """Return the state of a module, optimizer or scheduler, or of a collection of them.

    Raises: CheckpointError for a collection that contains itself.
    """
    thing = unwrap(thing)
    if callable(getattr(thing, "state_dict", None)):
        return thing.state_dict()
    nesting = nesting or Nesting()
    if isinstance(thing, Mapping) and not hasattr(thing, "_metadata"):
        with nesting.inside(thing, place):
            return {k: state_of(v, at(place, k), nesting) for k, v in thing.items()}
    if type(thing) in (list, tuple):
        with nesting.inside(thing, place):
            return type(thing)(state_of(v, at(place, n), nesting) for n, v in enumerate(thing))
    return thing


def at(place: str, key: Any) -> str:
    """Return the place of the value under `key`, as in code: extra['a'][0]."""
    return f"{place}[{key!r:.80}]" if type(key) in (str, int) else f"{place}[{key!s:.80}]"


class Snapshot:
    """Turns states into plain values; with `copy`, into ones that training cannot change any more.

    Tensors that share memory (tied weights) share it afterwards too.
    """

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self._seen: dict[Any, Any] = {}
        self._keep: list[Any] = []  # addresses are valid keys only while their tensors live
        self._devices: set[Any] = set()
        self._nesting = Nesting()

    def take(self, value: Any, place: str) -> Any:
        """Return `value` as plain values. Raises: CheckpointError with its place."""
        plain = self._plain(value, place)
        for device in self._devices:
            import torch

            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()
        return plain

    def _plain(self, value: Any, place: str) -> Any:
        kind = type(value)
        if kind is int and value.bit_length() > _INT_BITS_MAX:
            raise _refused(place, f"a number of {value.bit_length()} bits", "Save it as a text")
        if value is None or kind in (bool, int, float, complex, str, bytes, bytearray):
            return value
        if _is_tensor(value):
            return self._tensor(value, place)
        if isinstance(value, Mapping):
            with self._nesting.inside(value, place):
                return self._mapping(value, place)
        if kind in (list, tuple, set, frozenset):
            with self._nesting.inside(value, place):
                items = [self._plain(item, at(place, n)) for n, item in enumerate(value)]
            if kind in (list, tuple):
                return tuple(items) if kind is tuple else items
            return {self._hashable(item, at(place, n)) for n, item in enumerate(items)}
        if kind.__module__ == "torch" and kind.__name__ in _TORCH_VALUES:
            return value
        return self._converted(value, place)

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        plain = {}
        for key, inner in value.items():
            below = at(place, key)
            plain[self._hashable(self._plain(key, f"the key of {below}"), below)] = self._plain(
                inner, below
            )
        if not hasattr(value, "_metadata"):
            return plain
        # Versions of a module's parts, which load_state_dict reads.
        ordered: Any = OrderedDict(plain)
        ordered._metadata = self._plain(dict(value._metadata), place)  # noqa: SLF001 - torch's own
        return ordered

    def _hashable(self, plain: Any, place: str) -> Any:
        """Return a key or a member of a set; a frozen set became a set, which cannot be either."""
        try:
            hash(plain)
        except TypeError:
            raise _refused(
                place, "a key, or in a set, and holds a set itself", "Use tuples instead"
            ) from None
        return plain

    def _converted(self, value: Any, place: str) -> Any:
        kind = type(value)
        base: Any
        if isinstance(value, str):
            return str.__str__(value)  # `str(...)` of an enum is its name, not what it equals
        for base in (int, float, complex, bytes):
            if isinstance(value, base):  # enums and numpy scalars among them
                plain = base(value)
                return self._plain(plain, place) if base is int else plain
        if kind.__module__ == "numpy" and callable(getattr(value, "item", None)):
            numpy = sys.modules["numpy"]
            if isinstance(value, numpy.generic):
                item = value.item()
                if not isinstance(item, numpy.generic):  # a long double's item is one again
                    return self._plain(item, place)
            elif value.dtype.kind in "biufc":
                return _as_tensor(numpy, value, place)
        raise _refused(
            place,
            f"a {kind.__module__}.{kind.__qualname__}",
            "Save its numbers, texts and tensors instead, or its state_dict() if it has one",
        )

    def _tensor(self, tensor: Any, place: str) -> Any:
        import torch

        if type(tensor).__name__ in _SHARDED:
            raise CheckpointError(
                f"{place} is a {type(tensor).__name__}, of which this rank has only a part. Save "
                "with torch.distributed.checkpoint and pass its folder to log_checkpoint("
                "path, step=..., kind='dcp')"
            )
        if tensor.device.type == "meta":
            raise CheckpointError(f"{place} is on the meta device: it has no content to save")
        tensor = tensor.detach()
        if type(tensor) is not torch.Tensor and type(tensor) not in _safe_classes(torch):
            raise CheckpointError(
                f"{place} is a {type(tensor).__qualname__}, which torch.load(weights_only=True) "
                "refuses. Allow the class with torch.serialization.add_safe_globals, here and "
                "where it is loaded, or save a plain tensor"
            )
        if tensor.layout is not torch.strided or type(tensor) is not torch.Tensor:
            return tensor.cpu().clone() if self._copy else tensor
        # A conjugate or negative view is the same memory, read another way.
        view = (tensor.is_conj(), tensor.is_neg())
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device, view)
        if tensor.numel() == 0 or key not in self._seen:
            self._seen[key] = self._host(torch, tensor)
            self._keep.append(tensor)
        return self._seen[key]

    def _host(self, torch: Any, tensor: Any) -> Any:
        if not self._copy:
            # A view is saved with all of its storage, however little of it the view shows.
            whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            return tensor if whole else tensor.clone()
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True)
        try:
            host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        except RuntimeError:  # out of pinned memory: a slower copy
            return tensor.cpu()
        self._devices.add(tensor.device)
        return host.copy_(tensor, non_blocking=True)


def _refused(place: str, what: str, advice: str) -> CheckpointError:
    return CheckpointError(
        f"{place} is {what}, which a checkpoint cannot hold: the loader builds only tensors, plain "
        f"numbers, texts and containers, and executes nothing. {advice}"
    )


def _as_tensor(numpy: Any, array: Any, place: str) -> Any:
    """Return a copy of an array. Raises: CheckpointError for numbers that torch does not have."""
    import torch

    try:
        # Files from another machine may have the other byte order.
        return torch.from_numpy(numpy.array(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        what = f"an array of {array.dtype}"
        raise _refused(place, what, "Convert it, for example with .astype(numpy.float64)") from None


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _safe_classes(torch: Any) -> list[Any]:
    classes: list[Any] = torch.serialization.get_safe_globals()
    return classes


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
