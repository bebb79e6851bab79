"""What tensors really hold: storages counted once, packed and wrapped formats opened."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any


def inner_tensors(tensor: Any) -> Iterator[Any]:
    """The plain tensors behind one that may be a wrapper (torchao) or carry its scales beside it (bitsandbytes)."""
    from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if isinstance(tensor, (FakeTensor, FunctionalTensor)):
        return  # a compiler's stand-in: it has a shape and no storage
    if is_functorch_wrapped_tensor(tensor):  # vmap's, which flex attention's masks leave behind
        yield from inner_tensors(get_unwrapped(tensor))
        return
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from inner_tensors(getattr(tensor, name))
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        yield from _reachable(vars(state), depth=2)


def elements(parameter: Any, module: Any = None, name: str = "") -> int:
    """Numbers that a parameter stands for: packed formats keep several in a byte.

    bitsandbytes notes the shape before packing on the parameter; a module may say so of its own by `weight_counts`.
    """
    counts = getattr(module, "weight_counts", {})
    if name in counts:
        return counts[name]
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def storages(tensors: Iterable[Any], device_type: str | None = None) -> dict[tuple[str, int], Any]:
    """The distinct storages behind `tensors` by device and address, on one kind of device or on all."""
    found = {}
    for tensor in tensors:
        for plain in inner_tensors(tensor):
            if device_type is None or plain.device.type == device_type:
                storage = plain.untyped_storage()
                found[(str(plain.device), storage.data_ptr())] = storage
    return found


def storage_bytes(tensors: Iterable[Any], device_type: str | None = None) -> int:
    """Bytes of the distinct storages behind `tensors`, on one kind of device or on all."""
    return sum(storage.nbytes() for storage in storages(tensors, device_type).values())


def model_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers as they are stored."""
    return storage_bytes([*model.parameters(), *model.buffers()])


def reachable_bytes(root: Any) -> int:
    """Bytes of every tensor reachable through attributes and containers of `root` (an optimizer, a cache)."""
    return storage_bytes(reachable(root))


def reachable(root: Any) -> Iterator[Any]:
    """Every tensor reachable through attributes and containers of `root`."""
    return _reachable(root, depth=8)


def live_objects(kind: type) -> list[Any]:
    """Every object of `kind` that Python holds now.

    What was made before the process was forked is not among them (it is frozen out of the collector), nor are tensors
    that only C++ holds, such as activations saved inside a running backward pass.
    """
    return [item for item in gc.get_objects() if issubclass(type(item), kind)]


def live_bytes(device_type: str) -> int:
    """Bytes of every tensor that Python holds now, on one kind of device."""
    import torch

    return storage_bytes(live_objects(torch.Tensor), device_type)


def _reachable(root: Any, depth: int, seen: set[int] | None = None) -> Iterator[Any]:
    import torch

    seen = set() if seen is None else seen
    if id(root) in seen or depth < 0:
        return
    seen.add(id(root))
    if isinstance(root, torch.Tensor):
        yield root
        return
    if isinstance(root, dict):
        children: Iterable[Any] = [*root.keys(), *root.values()]
    elif isinstance(root, (list, tuple, set)):
        children = root
    elif hasattr(root, "__dict__") and not isinstance(root, (type, torch.nn.Module)):
        children = vars(root).values()
    else:
        return
    for child in children:
        yield from _reachable(child, depth - 1, seen)
