"""Training for real: timed steps towards a fixed token budget, and the held-out loss before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Metric, Session, Work, Workload
from harness.run.flops import Contexts, cost_of
from harness.run.tensors import reachable_bytes, storage_bytes
from harness.workloads.acting import acting
from harness.workloads.batches import bits_per_byte, held_out_windows, random_batch, tokenize


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
    metrics: ClassVar = (
        Metric("quality_bits_per_byte", "held-out loss in bits per byte after the window's work", "lower"),
        Metric("quality_standard_error_bits_per_byte", "standard error of quality over held-out windows"),
        Metric("quality_before_bits_per_byte", "held-out loss in bits per byte before training"),
    )

    def __post_init__(self) -> None:
        if self.budget_tokens < 4 * self.batch_size * self.sequence_length:
            raise ValueError("budget_tokens must cover at least 4 steps of batch_size x sequence_length tokens")

    def fixed_steps(self) -> int:
        """Steps that the token budget prescribes."""
        return self.budget_tokens // (self.batch_size * self.sequence_length)

    def prepare(self, model: Any, context: Context) -> Session:
        """Read the text, evaluate once, make the optimizer."""
        return _Training(self, model, context)


class _Training(Session):
    def __init__(self, workload: TrainStep, model: Any, context: Context) -> None:
        import torch

        self.workload, self.model, self.device = workload, model, context.device
        self.text = tokenize(context.corpus.load(), context.model.tokenizer())
        self.windows = held_out_windows(self.text.held_out, workload.held_out_windows, workload.sequence_length)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.seed, self.steps_done, self.trained_tokens = context.seed, 0, 0
        self.quality_before = self._quality()[0]
        model.train()
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.cost, self.update = cost_of(model), acting(context.techniques, "training_step")
        self.chooser = acting(context.techniques, "optimizer")
        self.optimizer = None if self.update else self._make_optimizer()
        self.batch = self._next_batch()
        self.loss: Any = None

    def _make_optimizer(self) -> Any:
        import torch

        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "nothing to train: every parameter is frozen; stack a technique that adds some, such as lora"
            )
        if self.chooser:
            return self.chooser.optimizer(parameters, self.workload.learning_rate)
        return torch.optim.AdamW(parameters, lr=self.workload.learning_rate)

    def _quality(self) -> tuple[float, float]:
        each = self.text.bytes_per_token
        return bits_per_byte(self.model, self.windows, self.device, bytes_per_token=each)

    def _next_batch(self) -> Any:
        size, length = self.workload.batch_size, self.workload.sequence_length
        return random_batch(self.text.train, size, length, self.generator).to(self.device)

    def before_step(self) -> None:
        self.batch = self._next_batch()

    def step(self) -> None:
        import torch

        if self.update:
            seed = self.seed * 1_000_003 + self.steps_done
            self.loss = self.update.training_step(self.model, self.batch, self.workload.learning_rate, seed)
        else:
            assert self.optimizer is not None
            self.optimizer.zero_grad(set_to_none=True)
            self.loss = self.model(input_ids=self.batch, labels=self.batch, use_cache=False).loss
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.steps_done += 1
        self.trained_tokens += self.batch.numel()

    def work(self) -> Work:
        size, length = self.workload.batch_size, self.workload.sequence_length
        return Work(
            samples=size,
            trained_tokens=size * length,
            model_flops=self._flops((1, length)),
            dense_model_flops=self._flops((length, length)),
            dtype=self.dtype,
        )

    def _flops(self, contexts: Contexts) -> float | None:
        """FLOPs of a step whose tokens have these contexts."""
        tokens = self.workload.batch_size * self.workload.sequence_length
        forward, backward = self.cost.forward_flops(tokens, contexts), self.cost.backward_flops(tokens, contexts)
        if forward is None or backward is None:
            return None
        return self.update.training_flops(forward, backward) if self.update else forward + backward

    def counted(self) -> Mapping[str, int]:
        return {"trained_tokens": self.trained_tokens}

    def held_bytes(self) -> Mapping[str, int]:
        held = {"gradient_bytes": storage_bytes(p.grad for p in self.model.parameters() if p.grad is not None)}
        if self.optimizer is not None:
            # An optimizer reaches the parameters too; its state is everything else that it reaches.
            parameters = list(self.model.parameters())
            held["optimizer_state_bytes"] = reachable_bytes([self.optimizer, parameters]) - storage_bytes(parameters)
        return held

    def outcome(self) -> Mapping[str, float | None]:
        mean, error = self._quality()
        return {
            "quality_bits_per_byte": mean,
            "quality_standard_error_bits_per_byte": error,
            "quality_before_bits_per_byte": self.quality_before,
        }

    def facts(self) -> Mapping[str, Any]:
        return {
            **self.text.facts,
            "quality_basis": "held-out loss after training",
            "final_training_loss_nats": None if self.loss is None else float(self.loss.detach()),
            "optimizer": None
            if self.optimizer is None
            else f"{type(self.optimizer).__module__}.{type(self.optimizer).__name__}",
            "training_step": type(self.update).__name__ if self.update else "backpropagation",
        }
