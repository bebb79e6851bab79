"""Training for real: timed steps towards a fixed token budget, and the held-out loss before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Session, Workload
from harness.workloads.training import QUALITY_METRICS, Recipe, Training, text_of


@dataclass(frozen=True)
class TrainStep(Workload):
    """One optimizer step on a random batch; every step of the budget is run and timed.

    The optimizer is AdamW with the technique's parameters or, where a technique says so, its own; gradients are clipped
    to norm 1. `learning_rate` is the baseline's; a technique may scale it.
    """

    batch_size: int = 8
    sequence_length: int = 64
    budget_tokens: int = 25_600
    learning_rate: float = 1e-3
    held_out_windows: int = 128

    moments: ClassVar = frozenset({"configure", "load_options", "transform", "optimizer", "training_step"})
    metrics: ClassVar = QUALITY_METRICS

    def __post_init__(self) -> None:
        if self.budget_tokens < 4 * self.batch_size * self.sequence_length:
            raise ValueError("budget_tokens must cover at least 4 steps of batch_size x sequence_length tokens")

    def context_tokens(self) -> int:
        """The length of its sequences."""
        return self.sequence_length

    def prepare(self, model: Any, context: Context) -> Session:
        """Read the text, evaluate once, make the optimizer."""
        recipe = Recipe(
            steps=self.budget_tokens // (self.batch_size * self.sequence_length),
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
            held_out_windows=self.held_out_windows,
            micro_batch_size=self.batch_size,
        )
        return Training(recipe, model, context, text_of(context))
