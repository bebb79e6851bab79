"""Where a mixture's tokens went: how evenly its experts are used, and how much of them a step reads."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Session, Window
from harness.run.tensors import live_objects, storage_bytes

NO_ROUTER = "no router: the model has no bank of experts"
#: What reaches the experts cannot show a token that was dropped before; neither transformers' decoders nor ours do it.
NO_CAPACITY = "no router here has a capacity, so none can drop a token"


class Routing(Meter):
    """Counts visits in a step of its own after the window, by watching what every bank of experts is called with.

    That is the same for transformers' mixtures and our own: hidden states, the numbers of the experts that each token
    visits, and their weights. A number beyond the bank's experts is a place that visits nobody. A model without a bank
    costs no step.
    """

    metrics: ClassVar = (
        Metric(
            "expert_load_maximum_over_mean_ratio", "visits of the busiest expert over the mean, worst bank", "lower"
        ),
        Metric("expert_load_entropy_ratio", "entropy of visits over that of even ones, mean over banks", "higher"),
        Metric("dropped_token_ratio", "share of tokens that a router dropped for want of capacity", "lower"),
        Metric("expert_visits_per_token_count", "experts that a token visits in a mixture, mean; shared ones aside"),
        Metric("expert_traffic_bytes", "weights of the experts visited in a step's forward passes, once for each call"),
        Metric("router_count", "banks of experts that the step called; a bank shared by several layers is one"),
    )

    def open(self, device: str) -> None:
        """Nothing is seen yet."""
        self.banks: list[Bank] = []
        self.reason = "no step was run to watch"

    def probe(self, session: Session) -> None:
        """Run a step with every bank watched; one that cannot run so costs these readings and not the row."""
        if "torch" not in sys.modules:
            self.reason = "the step does not use torch"
            return
        banks = find_banks()
        if not banks:
            self.reason = NO_ROUTER
            return
        watches = [bank.module.register_forward_pre_hook(bank.watch, with_kwargs=True) for bank in banks]
        try:
            session.before_step()
            session.step()
        except Exception as error:
            self.reason = f"the step does not run with its experts watched: {type(error).__name__}: {error}"[:300]
        else:
            self.banks = sorted((bank for bank in banks if bank.tokens), key=lambda bank: bank.first_ns)
            self.reason = "" if self.banks else "the step called no bank of experts that was seen"
        finally:
            for watch in watches:
                watch.remove()

    def readings(self, window: Window) -> Readings:
        """Loads by bank, and sums over all of them."""
        if self.reason:
            return Readings({}, {metric.name: self.reason for metric in self.metrics})
        loads = [bank.visits.tolist() for bank in self.banks]
        used = sorted((load for load in loads if sum(load)), key=unevenness)
        values: dict[str, float | None] = {
            "expert_visits_per_token_count": sum(map(sum, loads)) / sum(bank.tokens for bank in self.banks),
            "expert_traffic_bytes": sum(bank.traffic_bytes() for bank in self.banks),
            "router_count": len(self.banks),
        }
        reasons = {"dropped_token_ratio": NO_CAPACITY}
        if used:
            values["expert_load_maximum_over_mean_ratio"] = unevenness(used[-1])
            values["expert_load_entropy_ratio"] = sum(map(evenness, used)) / len(used)
        else:
            why = "no token visited an expert"
            reasons |= {"expert_load_maximum_over_mean_ratio": why, "expert_load_entropy_ratio": why}
        return Readings(values, reasons, {"expert_visits_worst_bank": used[-1] if used else None})

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        return {"routing": "calls of every bank of experts, in a step of its own"}


@dataclass
class Bank:
    """A bank of experts, and what it was called with."""

    module: Any
    experts: int
    expert_bytes: float
    first_ns: int = 0
    tokens: int = 0
    #: Visits of each expert, and how many different experts each call visited: on the device, to wait for nothing.
    visits: Any = 0
    different: list[Any] = field(default_factory=list)

    def watch(self, _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Count a call: the tensor of whole numbers says who is visited."""
        import torch

        given = [item for item in (*arguments, *named.values()) if isinstance(item, torch.Tensor)]
        index = next((item for item in given if item.ndim == 2 and not item.is_floating_point()), None)
        if index is None:
            return
        with torch.no_grad():
            numbers = index.flatten().clamp(max=self.experts)
            counts = torch.zeros(self.experts + 1, dtype=torch.int64, device=index.device)
            counts = counts.scatter_add(0, numbers, torch.ones_like(numbers))[: self.experts]
        self.first_ns = self.first_ns or time.perf_counter_ns()
        self.tokens += index.shape[0]
        self.visits = self.visits + counts
        self.different.append((counts > 0).sum())

    def traffic_bytes(self) -> float:
        """Weights of the experts that were visited."""
        return self.expert_bytes * sum(int(count) for count in self.different)


def find_banks() -> list[Bank]:
    """Every module alive that is called a bank of experts and whose own weights are stacked by expert."""
    import torch

    return [bank for module in live_objects(torch.nn.Module) for bank in _bank(module)]


def _bank(module: Any) -> Iterable[Bank]:
    weights = [weight for weight in module._parameters.values() if weight is not None]
    stacked = [weight.shape[0] for weight in weights if weight.ndim == 3]
    if type(module).__name__.endswith("Experts") and stacked:
        # transformers' LongCat has rows in one of its weights for experts that do nothing.
        each = sum(storage_bytes([weight]) / weight.shape[0] for weight in weights)
        yield Bank(module, min(stacked), each)


def unevenness(load: list[int]) -> float:
    """The busiest expert's visits over the mean."""
    return len(load) * max(load) / sum(load)


def evenness(load: list[int]) -> float:
    """The entropy of a load over that of an even one: 1 where all experts are visited alike, 0 where one alone is."""
    shares = [visits / sum(load) for visits in load if visits]
    even = math.log(len(load))
    return -sum(share * math.log(share) for share in shares) / even if even else 1.0
