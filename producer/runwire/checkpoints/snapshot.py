"""Snapshots: the state of training as plain values and tensors, which the safe loader accepts.

`torch.load(weights_only=True)` builds tensors, numbers, texts and containers and nothing else.
Other values are converted when they are saved, or left out and named, so that one of them does not
cost the checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from runwire.checkpoints.leaves import UnstorableValue, convert
from runwire.errors import CheckpointError
from runwire_disk.interrupts import reraise_interrupt

__all__ = ["Snapshot", "check_collective", "unwrap"]

_T = TypeVar("_T")
_SHARDED = ("DTensor", "ShardedTensor")
_COLLECTIVE = "FullyShardedDataParallel"
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module"}
# torch's own values that its safe loader rebuilds.
_TORCH_VALUES = ("Size", "device", "dtype")
# The safe loader reads whole numbers of up to 255 bytes, their sign included.
_INT_BITS_MAX = 255 * 8 - 1
# Far below Python's own limit, at which saving would fail without naming the place.
_DEPTH_MAX = 100
# Stands for a value that was left out: its container decides what takes its place.
_ABSENT: Final = object()


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
        """Enter a container. Raises: UnstorableValue when it is too deep or contains itself."""
        if id(container) in self._around:
            raise UnstorableValue(place, "a container that contains itself", "Break the cycle")
        if len(self._around) >= _DEPTH_MAX:
            what = f"inside more than {_DEPTH_MAX} containers"
            raise UnstorableValue(f"{place:.200}", what, "Save it flat")
        self._around.add(id(container))
        try:
            yield
        finally:
            self._around.discard(id(container))


class Snapshot:
    """Turns states into plain values; with `copy`, into ones that training cannot change any more.

    Objects with a state_dict() become that. Tensors that share memory (tied weights) share it
    afterwards too. `left_out` has the places of values that cannot be stored, and what they are;
    if `strict`, the first of them raises.
    """

    def __init__(self, *, copy: bool, strict: bool = False) -> None:
        self.left_out: dict[str, str] = {}
        self._copy, self._strict = copy, strict
        self._is_needed = False
        self._tensors = self._lost_tensors = 0
        self._seen: dict[Any, Any] = {}
        self._keep: list[Any] = []  # addresses are valid keys only while their tensors live
        self._devices: set[Any] = set()
        self._nesting = Nesting()

    def take(self, value: Any, place: str, *, is_needed: bool = False) -> Any:
        """Return `value` as plain values, without those that cannot be stored.

        Raises: CheckpointError if strict, or for a tensor of which this rank has only a part. If
        the object `is_needed` to resume, also when nothing of it can be stored, and whatever its
        state_dict() raises: a hollow checkpoint must not take the place of a good one.
        """
        self._is_needed, self._tensors, self._lost_tensors = is_needed, 0, 0
        plain = self._member(value, place)
        if is_needed and (plain is _ABSENT or (self._lost_tensors and not self._tensors)):
            first = next(name for name in self.left_out if name.startswith(place))
            raise CheckpointError(
                f"nothing of {place} can be saved: {first} is {self.left_out[first]}"
            )
        for device in self._devices:
            import torch

            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()
        return None if plain is _ABSENT else plain

    def _member(self, value: Any, place: str) -> Any:
        """Return a value as plain values; _ABSENT if it was left out."""
        try:
            return self._plain(value, place)
        except UnstorableValue as problem:
            if self._strict:
                raise
            self.left_out[problem.place] = problem.what
            self._lost_tensors += _is_tensor(value)
            return _ABSENT

    def _plain(self, value: Any, place: str) -> Any:
        kind = type(value)
        if kind is int and value.bit_length() > _INT_BITS_MAX:
            what = f"a number of {value.bit_length()} bits"
            raise UnstorableValue(place, what, "Save it as a text")
        if value is None or kind in (bool, int, float, complex, str, bytes, bytearray):
            return value
        if _is_tensor(value):
            return self._tensor(value, place)
        if kind in (list, tuple, set, frozenset):
            return self._items(value, place)
        if kind.__module__ == "torch" and kind.__name__ in _TORCH_VALUES:
            return value
        value = unwrap(value)
        with self._nesting.inside(value, place):
            if kind is not dict and not isinstance(value, type) and _has_state(value):
                return self._plain(self._state_of(value, place), place)
            if isinstance(value, Mapping):
                return self._mapping(value, place)
            plain = _ask(lambda: convert(value, place), value, place)
            return plain if _is_tensor(plain) else self._plain(plain, place)

    def _items(self, value: Any, place: str) -> Any:
        kind = type(value)
        with self._nesting.inside(value, place):
            items = [self._member(item, at(place, n)) for n, item in enumerate(value)]
        if kind in (list, tuple):  # None keeps the places of the others
            return kind(None if item is _ABSENT else item for item in items)
        members = set()
        for n, item in enumerate(items):
            with self._leaving_out():
                if item is not _ABSENT:
                    members.add(_hashable(item, at(place, n)))
        return members

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        plain: dict[Any, Any] = {}
        for key, inner in _ask(lambda: list(value.items()), value, place):
            below = at(place, key)
            with self._leaving_out():
                name = _hashable(self._plain(key, f"the key of {below}"), below)
                if name in plain:
                    raise UnstorableValue(below, f"under a second key that equals {name!r:.80}")
                item = self._member(inner, below)
                if item is not _ABSENT:
                    plain[name] = item
        if not hasattr(value, "_metadata"):
            return plain
        # Versions of a module's parts, which load_state_dict reads.
        ordered: Any = OrderedDict(plain)
        ordered._metadata = self._plain(dict(value._metadata), place)  # noqa: SLF001 - torch's own
        return ordered

    @contextlib.contextmanager
    def _leaving_out(self) -> Iterator[None]:
        """Leave out what the block finds unstorable. Raises: UnstorableValue if strict."""
        try:
            yield
        except UnstorableValue as problem:
            if self._strict:
                raise
            self.left_out[problem.place] = problem.what

    def _state_of(self, thing: Any, place: str) -> Any:
        """Return its state_dict(). Raises: what that raises, if the object is needed."""
        if self._is_needed:
            return thing.state_dict()
        return _ask(thing.state_dict, thing, place)

    def _tensor(self, tensor: Any, place: str) -> Any:
        import torch

        if type(tensor).__name__ in _SHARDED:
            raise CheckpointError(
                f"{place} is a {type(tensor).__name__}, of which this rank has only a part. Save "
                "with torch.distributed.checkpoint and pass its folder to log_checkpoint("
                "path, step=..., kind='dcp')"
            )
        if tensor.device.type == "meta":
            what = "on the meta device, without content"
            raise UnstorableValue(place, what, "Give it content first, with to_empty() and a load")
        tensor = _as_plain(torch, tensor.detach(), place)
        self._tensors += 1
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


def at(place: str, key: Any) -> str:
    """Return the place of the value under `key`, as in code: extra['a'][0]."""
    try:
        return f"{place}[{key!r:.80}]" if type(key) in (str, int) else f"{place}[{key!s:.80}]"
    except Exception as error:  # objects of users may do anything
        reraise_interrupt(error)
        return f"{place}[a {type(key).__name__}]"


def _ask(question: Callable[[], _T], value: Any, place: str) -> _T:
    """Run code of a user's class. Raises: UnstorableValue when it raises."""
    try:
        return question()
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        reraise_interrupt(error)
        what = f"a {type(value).__qualname__} that raises {type(error).__name__} when it is read"
        raise UnstorableValue(place, what) from error


def _has_state(value: Any) -> bool:
    try:
        return callable(getattr(value, "state_dict", None))
    except Exception as error:  # a property of a user's class; `convert` decides
        reraise_interrupt(error)
        return False


def _hashable(plain: Any, place: str) -> Any:
    """Return a key or a member of a set; a frozen set became a set, which cannot be either."""
    try:
        hash(plain)
    except TypeError:
        what = "a key, or in a set, and holds a set itself"
        raise UnstorableValue(place, what, "Use tuples instead") from None
    return plain


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_plain(torch: Any, tensor: Any, place: str) -> Any:
    """Return a tensor of a class that the safe loader builds. Raises: UnstorableValue."""
    kind = type(tensor)
    if kind is torch.Tensor or kind in torch.serialization.get_safe_globals():
        return tensor
    if kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return tensor.as_subclass(torch.Tensor)  # a name and methods, the content is its own
    raise UnstorableValue(
        place,
        f"a {kind.__qualname__}",
        "Allow the class with torch.serialization.add_safe_globals, here and where it is loaded, "
        "or save a plain tensor",
    )
