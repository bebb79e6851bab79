"""The baseline: the model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.interfaces import Technique


@dataclass(frozen=True)
class Baseline(Technique):
    """Changes nothing; every other technique is compared with it."""

    family: ClassVar = "baseline"
