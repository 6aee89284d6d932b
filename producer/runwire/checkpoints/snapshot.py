"""What goes into a checkpoint as plain values and tensors: all that the safe loader accepts.

`torch.load(weights_only=True)` builds tensors, numbers, texts and containers and nothing else, so
a value of any other class is refused when it is saved, by its place in the checkpoint.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from runwire.errors import CheckpointError

__all__ = ["Snapshot", "check_collective", "state_of", "unwrapped"]

_SHARDED = ("DTensor", "ShardedTensor")
_COLLECTIVE = "FullyShardedDataParallel"
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module"}
# torch's own values that its safe loader rebuilds.
_TORCH_VALUES = ("Size", "device", "dtype")


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


def state_of(thing: Any) -> Any:
    """Return the state of a module, optimizer or scheduler, or of a collection of them."""
    thing = unwrapped(thing)
    if callable(getattr(thing, "state_dict", None)):
        return thing.state_dict()
    if isinstance(thing, Mapping) and not hasattr(thing, "_metadata"):
        return {key: state_of(value) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        return type(thing)(state_of(value) for value in thing)
    return thing


class Snapshot:
    """Turns states into plain values; with `copy`, into ones that training cannot change any more.

    Tensors that share memory (tied weights) share it afterwards too.
    """

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self._seen: dict[Any, Any] = {}
        self._keep: list[Any] = []  # a memo by address holds only while its tensors live
        self._devices: set[Any] = set()

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
        if value is None or kind in (bool, int, float, complex, str, bytes, bytearray):
            return value
        if _is_tensor(value):
            return self._tensor(value, place)
        if isinstance(value, Mapping):
            return self._mapping(value, place)
        if kind in (list, tuple, set, frozenset):
            items = [self._plain(item, f"{place}[{n}]") for n, item in enumerate(value)]
            return tuple(items) if kind is tuple else items if kind is list else set(items)
        if kind.__module__ == "torch" and kind.__name__ in _TORCH_VALUES:
            return value
        return self._converted(value, place)

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        plain = {self._plain(k, place): self._plain(v, f"{place}/{k}") for k, v in value.items()}
        if not hasattr(value, "_metadata"):
            return plain
        # Versions of a module's parts, which load_state_dict reads.
        ordered: Any = OrderedDict(plain)
        ordered._metadata = self._plain(dict(value._metadata), place)  # noqa: SLF001 - torch's own
        return ordered

    def _converted(self, value: Any, place: str) -> Any:
        kind = type(value)
        known: Any
        if isinstance(value, str):
            return str.__str__(value)  # `str(...)` of an enum is its name, not what it equals
        for known in (int, float, complex, bytes):
            if isinstance(value, known):  # enums and numpy scalars among them
                return known(value)
        if kind.__module__ == "numpy" and callable(getattr(value, "item", None)):
            numpy = sys.modules["numpy"]
            if isinstance(value, numpy.generic):
                return self._plain(value.item(), place)
            if value.dtype.kind in "biufc":
                import torch

                return torch.from_numpy(numpy.array(value))
        raise CheckpointError(
            f"{place} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold: "
            "loading it would mean executing code. Save its numbers, texts and tensors instead "
            "(for an object with a state_dict(), that)"
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


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _safe_classes(torch: Any) -> list[Any]:
    found: list[Any] = torch.serialization.get_safe_globals()
    return found
