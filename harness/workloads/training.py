"""What every workload that trains shares: timed updates on batches of the text, and the held-out loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.interfaces import Context, Metric, Session, Work
from harness.run.flops import Contexts, cost_of
from harness.run.tensors import reachable_bytes, storage_bytes
from harness.workloads.acting import acting
from harness.workloads.batches import Tokens, bits_per_byte, held_out_windows, random_batch, tokenize

QUALITY_METRICS = (
    Metric("quality_bits_per_byte", "held-out loss in bits per byte after the window's work", "lower"),
    Metric("quality_standard_error_bits_per_byte", "standard error of quality over held-out windows"),
    Metric("quality_before_bits_per_byte", "held-out loss in bits per byte before training"),
)


@dataclass(frozen=True)
class Recipe:
    """The sizes of a training run."""

    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    held_out_windows: int
    #: Sequences of a batch that pass the model at once; gradients of the others are added.
    micro_batch_size: int

    @property
    def step_tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.sequence_length


class Training(Session):
    """A model, its optimizer and the next batch. Subclasses may change the optimizer and the learning rate's course.

    Batches depend on the seed and the text alone, so all techniques see the same ones. The labels are the batch itself:
    the model compares each position with the next token.
    """

    def __init__(self, recipe: Recipe, model: Any, context: Context, text: Tokens) -> None:
        import torch

        self.recipe, self.model, self.device, self.text = recipe, model, context.device, text
        self.windows = held_out_windows(text.held_out, recipe.held_out_windows, recipe.sequence_length)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.seed, self.steps_done, self.trained_tokens = context.seed, 0, 0
        self.quality_before = self.quality()[0]
        model.train()
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.cost, self.update = cost_of(model), acting(context.techniques, "training_step")
        self.chooser = acting(context.techniques, "optimizer")
        self.optimizer = None if self.update else self._make_optimizer()
        self.batch = self._next_batch()
        self.loss: Any = None

    def default_optimizer(self, parameters: list[Any]) -> Any:
        """The optimizer where no technique has one of its own."""
        import torch

        return torch.optim.AdamW(parameters, lr=self.recipe.learning_rate)

    def learning_rate(self) -> float:
        """The baseline's learning rate at the next step; a technique may scale it."""
        return self.recipe.learning_rate

    def quality(self) -> tuple[float, float]:
        """The held-out loss in bits per byte and its standard error."""
        return bits_per_byte(self.model, self.windows, self.device, bytes_per_token=self.text.bytes_per_token)

    def _make_optimizer(self) -> Any:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "nothing to train: every parameter is frozen; stack a technique that adds some, such as lora"
            )
        if self.chooser:
            return self.chooser.optimizer(parameters, self.recipe.learning_rate)
        return self.default_optimizer(parameters)

    def _next_batch(self) -> Any:
        size, length = self.recipe.batch_size, self.recipe.sequence_length
        return random_batch(self.text.train, size, length, self.generator).to(self.device)

    def fixed_steps(self) -> int:
        """Steps that the budget prescribes."""
        return self.recipe.steps

    def before_step(self) -> None:
        self.batch = self._next_batch()

    def step(self) -> None:
        import torch

        if self.update:
            seed = self.seed * 1_000_003 + self.steps_done
            self.loss = self.update.training_step(self.model, self.batch, self.learning_rate(), seed)
            self.loss = self.loss.detach() if hasattr(self.loss, "detach") else self.loss
        else:
            assert self.optimizer is not None
            self.optimizer.zero_grad(set_to_none=True)
            self.loss = self._backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.steps_done += 1
        self.trained_tokens += self.batch.numel()

    def _backward(self) -> Any:
        """Gradients of the batch's mean loss, by parts of `micro_batch_size` sequences; returns that loss."""
        total: Any = None
        for part in self.batch.split(self.recipe.micro_batch_size):
            loss = self.model(input_ids=part, labels=part, use_cache=False).loss
            if len(part) < len(self.batch):
                loss = loss * (len(part) / len(self.batch))
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def work(self) -> Work:
        length = self.recipe.sequence_length
        return Work(
            samples=self.recipe.batch_size,
            trained_tokens=self.recipe.step_tokens,
            model_flops=step_flops(self.cost, self.update, self.recipe.step_tokens, (1, length)),
            dense_model_flops=step_flops(self.cost, self.update, self.recipe.step_tokens, (length, length)),
            dtype=self.dtype,
        )

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
        mean, error = self.quality()
        return {
            "quality_bits_per_byte": mean,
            "quality_standard_error_bits_per_byte": error,
            "quality_before_bits_per_byte": self.quality_before,
        }

    def facts(self) -> Mapping[str, Any]:
        return {
            **self.text.facts,
            "quality_basis": "held-out loss after training",
            "final_training_loss_nats": None if self.loss is None else float(self.loss),
            "optimizer": None
            if self.optimizer is None
            else f"{type(self.optimizer).__module__}.{type(self.optimizer).__name__}",
            "training_step": type(self.update).__name__ if self.update else "backpropagation",
        }


def text_of(context: Context) -> Tokens:
    """The corpus as the model reads it."""
    return tokenize(context.corpus.load(), context.model.tokenizer())


def step_flops(cost: Any, update: Any, tokens: int, contexts: Contexts) -> float | None:
    """Model FLOPs of one update on `tokens` tokens with these contexts; None without a closed form."""
    forward, backward = cost.forward_flops(tokens, contexts), cost.backward_flops(tokens, contexts)
    if forward is None or backward is None:
        return None
    return update.training_flops(forward, backward) if update else forward + backward
