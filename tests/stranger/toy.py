"""A model and a workload of no library: what the core must measure without torch, in milliseconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from harness.interfaces import Model, Session, Work, Workload


@dataclass(frozen=True)
class Toy(Model):
    size: int = 1

    def architecture_facts(self, techniques: Any) -> dict[str, Any]:
        return {"size": self.size}

    def load(self, context: Any) -> Any:
        return ToyModel()


class ToyModel:
    """As much of a module as the core asks for."""

    device = SimpleNamespace(type="cpu")

    def __init__(self) -> None:
        self.scale = 1.0

    def parameters(self) -> list[Any]:
        return []

    buffers = modules = parameters


@dataclass(frozen=True)
class ToyWorkload(Workload):
    step_seconds: float = 0.002

    moments: ClassVar = frozenset({"transform"})

    def prepare(self, model: Any, context: Any) -> Session:
        return ToySession(self.step_seconds)


class ToySession(Session):
    def __init__(self, seconds: float) -> None:
        self.seconds, self.done = seconds, 0

    def step(self) -> None:
        time.sleep(self.seconds)
        self.done += 1

    def work(self) -> Work:
        return Work(samples=1, output_tokens=1)

    def counted(self) -> dict[str, int]:
        return {"output_tokens": self.done}
