"""What goes into a checkpoint as plain values and tensors: all that the safe loader accepts.

`torch.load(weights_only=True)` builds tensors, numbers, texts and containers and nothing else, so
a value of any other class is refused when it is saved, by its place in the checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from runwire.errors import CheckpointError

__all__ = ["Snapshot", "check_collective", "state_of", "unwrapped"]

_SHARDED = ("DTensor", "ShardedTensor")
_COLLECTIVE = "FullyShardedDataParallel"
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module"}
# torch's own values that its safe loader rebuilds.
_TORCH_VALUES = ("Size", "device", "dtype")
# The safe loader reads whole numbers of up to 255 bytes, their sign included.
_INT_BITS_MAX = 255 * 8 - 1
# Far below Python's own limit, at which saving would fail without saying where.
_DEPTH_MAX = 100


def unwrapped(model: Any) -> Any:
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
        """Go into a container. Raises: CheckpointError when it cannot be saved as deep as it is."""
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
    thing = unwrapped(thing)
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
    """Return the place of what is under `key`, as one would write it: extra['a'][0]."""
    return f"{place}[{key!r:.80}]" if type(key) in (str, int) else f"{place}[{key!s:.80}]"


class Snapshot:
    """Turns states into plain values; with `copy`, into ones that training cannot change any more.

    Tensors that share memory (tied weights) share it afterwards too.
    """

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self._seen: dict[Any, Any] = {}
        self._keep: list[Any] = []  # a memo by address holds only while its tensors live
        self._devices: set[Any] = set()
        self._nesting = Nesting()

    def take(self, value: Any, place: str) -> Any:
        """Return `value` as plain values. Raises: CheckpointError naming what cannot be saved."""
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
        for key, each in value.items():
            below = at(place, key)
            plain[self._hashable(self._plain(key, f"the key of {below}"), below)] = self._plain(
                each, below
            )
        if not hasattr(value, "_metadata"):
            return plain
        # Versions of a module's parts, which load_state_dict reads.
        ordered: Any = OrderedDict(plain)
        ordered._metadata = self._plain(dict(value._metadata), place)  # noqa: SLF001 - torch's own
        return ordered

    def _hashable(self, plain: Any, place: str) -> Any:
        """Return a key or a member of a set; what was a frozen set cannot be either any more."""
        try:
            hash(plain)
        except TypeError:
            raise _refused(
                place, "a key, or in a set, and holds a set itself", "Use tuples instead"
            ) from None
        return plain

    def _converted(self, value: Any, place: str) -> Any:
        kind = type(value)
        known: Any
        if isinstance(value, str):
            return str.__str__(value)  # `str(...)` of an enum is its name, not what it equals
        for known in (int, float, complex, bytes):
            if isinstance(value, known):  # enums and numpy scalars among them
                plain = known(value)
                return self._plain(plain, place) if known is int else plain
        if kind.__module__ == "numpy" and callable(getattr(value, "item", None)):
            numpy = sys.modules["numpy"]
            if isinstance(value, numpy.generic):
                item = value.item()
                if not isinstance(item, numpy.generic):  # as a long double is, once more
                    return self._plain(item, place)
            elif value.dtype.kind in "biufc":
                return _as_tensor(numpy, value, place)
        raise _refused(
            place,
            f"a {kind.__module__}.{kind.__qualname__}",
            "Save its numbers, texts and tensors instead (for an object with a state_dict(), that)",
        )

    def _tensor(self, tensor: Any, place: str) -> Any:
        import torch

        if type(tensor).__name__ in _SHARDED:
            raise CheckpointError(
                f"{place} is a {type(tensor).__name__}, of which this rank has a part only. Save "
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
        except RuntimeError:  # the limit of locked memory: a slower copy, then
            return tensor.cpu()
        self._devices.add(tensor.device)
        return host.copy_(tensor, non_blocking=True)


def _refused(place: str, what: str, advice: str) -> CheckpointError:
    return CheckpointError(
        f"{place} is {what}, which a checkpoint cannot hold: what loads it builds tensors, plain "
        f"numbers, texts and containers, and executes nothing. {advice}"
    )


def _as_tensor(numpy: Any, array: Any, place: str) -> Any:
    """Return a copy of an array. Raises: CheckpointError for numbers that torch does not have."""
    import torch

    try:
        # Files from elsewhere may hold them with the other end first.
        return torch.from_numpy(numpy.array(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        what = f"an array of {array.dtype}"
        raise _refused(place, what, "Convert it with .astype(numpy.float64), or alike") from None


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _safe_classes(torch: Any) -> list[Any]:
    found: list[Any] = torch.serialization.get_safe_globals()
    return found
