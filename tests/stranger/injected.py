"""Techniques that fail in every way a technique can, and one that works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.interfaces import Technique


@dataclass(frozen=True)
class Scale(Technique):
    """Multiplies the first parameter, and says so, because no count of bytes or modules can see it."""

    factor: float = 2.0

    family: ClassVar = "injected"

    def transform(self, model: Any, context: Any) -> Any:
        for parameter in list(model.parameters())[:1]:
            parameter.data.mul_(self.factor)
        return model

    def evidence(self, model: Any) -> str:
        return f"first parameter times {self.factor:g}"


class Injected(Technique):
    family: ClassVar = "injected"

    def transform(self, model: Any, context: Any) -> Any:
        self.act()
        return model

    def act(self) -> None:
        raise NotImplementedError


class Idle(Injected):
    def act(self) -> None:
        """Nothing at all."""


class Raises(Injected):
    def act(self) -> None:
        raise ValueError("this technique is broken: [red]no[/red] brackets are lost")


class OutOfMemory(Injected):
    def act(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class OutOfHostMemory(Injected):
    def act(self) -> None:
        raise MemoryError


class Exits(Injected):
    def act(self) -> None:
        os._exit(3)


class Segfaults(Injected):
    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)


class Hangs(Injected):
    """Sleeps with a child of its own, whose process id it leaves beside its log."""

    def act(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        place = Path(os.environ["HARNESS_SERVER_LOG"]).parent
        (place / "grandchild.txt").write_text(str(child.pid))
        time.sleep(300)


class NeverApplies(Technique):
    family: ClassVar = "injected"

    def skip_reason(self, context: Any) -> str:
        return "it never does"
