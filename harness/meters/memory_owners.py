"""Who owns the tensors of this process: found among the live objects, so that no workload needs to say it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.run.tensors import inner_tensors, live_objects, reachable, storages


@dataclass(frozen=True)
class Owners:
    """Live modules, optimizers and caches of keys and values."""

    modules: list[Any]
    optimizers: list[Any]
    caches: list[Any]

    def models(self) -> list[Any]:
        """The modules that are inside no other."""
        inside = {id(child) for module in self.modules for child in module.children()}
        return [module for module in self.modules if id(module) not in inside]

    def parameters(self) -> list[Any]:
        """Distinct parameters of all modules."""
        found = (item for module in self.modules for item in module._parameters.values() if item is not None)
        return list({id(item): item for item in found}.values())

    def tensors(self) -> Iterator[tuple[str, list[Any]]]:
        """Each part and its tensors; what two parts reach belongs to the first."""
        parameters = self.parameters()
        buffers = [item for module in self.modules for item in module._buffers.values() if item is not None]
        yield "weights", parameters + buffers
        yield "gradient", [item.grad for item in parameters if item.grad is not None]
        yield "kv_cache", list(reachable(self.caches))
        yield "optimizer_state", list(reachable(self.optimizers))


def find_owners() -> Owners:
    """Look through the live objects."""
    import torch

    cache = getattr(sys.modules.get("transformers.cache_utils"), "Cache", None)
    return Owners(
        live_objects(torch.nn.Module), live_objects(torch.optim.Optimizer), live_objects(cache) if cache else []
    )


def owned_storages(owners: Owners, device_type: str) -> dict[int, tuple[Any, str]]:
    """Address -> storage and part, of everything that has an owner."""
    found: dict[int, tuple[Any, str]] = {}
    for part, tensors in owners.tensors():
        for address, storage in _by_address(tensors, device_type).items():
            found.setdefault(address, (storage, part))
    return found


def live_storages(owners: Owners, device_type: str) -> dict[int, tuple[Any, str]]:
    """Address -> storage and part, of every tensor that Python holds; `other` where nobody owns it."""
    import torch

    found = owned_storages(owners, device_type)
    for address, storage in _by_address(live_objects(torch.Tensor), device_type).items():
        found.setdefault(address, (storage, "other"))
    return found


def is_packed(tensor: Any) -> bool:
    """Whether a tensor is stored otherwise than its shape and dtype say."""
    inner = list(inner_tensors(tensor))
    return len(inner) != 1 or inner[0] is not tensor


def _by_address(tensors: Iterable[Any], device_type: str) -> dict[int, Any]:
    return {key[1]: storage for key, storage in storages(tensors, device_type).items() if storage.nbytes()}
