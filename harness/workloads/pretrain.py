"""Training from the start to a budget of tokens or FLOPs, with the held-out loss along the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.interfaces import Context, Metric, Session, Workload
from harness.run.flops import cost_of
from harness.workloads import step_law
from harness.workloads.acting import acting
from harness.workloads.batches import bits_per_byte
from harness.workloads.training import QUALITY_METRICS, Recipe, Training, step_flops, text_of

LAW = "step_law"
FEWEST_STEPS = 4
#: Where the cosine ends, as a share of the peak learning rate.
LAST_SHARE = 0.1
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Pretrain(Workload):
    """A whole training run on random batches; every step of the budget is run and timed.

    The budget is either `budget_tokens` or `budget_flops`; a step's FLOPs are the closed form's, so that a technique
    with cheaper steps gets more of them. AdamW (0.9, 0.95) decays matrices by 0.1, unless a technique has an optimizer
    of its own; gradients are clipped to norm 1; the learning rate rises linearly over `warmup_ratio` of the steps and
    falls by a cosine to a tenth. `learning_rate` and `batch_tokens` are numbers, or follow the Step Law
    (`harness.workloads.step_law`), which needs no search. `micro_batch_size` sequences pass the model at once; without
    it, the whole batch does.

    The same held-out windows are evaluated at the start and at `evaluations` even parts of the budget, between steps
    and outside their times. With `target_bits_per_byte` the row says what the first evaluation at or below it had
    taken, which is late by at most one part of the budget. Evaluations take energy in the window, so energy of a token
    is told with `evaluations=1` alone, whose only one comes after the last step.

    A model that brings trained weights is trained further from them; `quality_before_bits_per_byte` shows the start.
    """

    sequence_length: int = 256
    batch_tokens: int | Literal["step_law"] = LAW
    budget_tokens: int | None = 262_144
    budget_flops: float | None = None
    learning_rate: float | Literal["step_law"] = LAW
    warmup_ratio: float = 0.05
    micro_batch_size: int | None = None
    evaluations: int = 10
    held_out_windows: int = 64
    target_bits_per_byte: float | None = None

    moments: ClassVar = frozenset({"configure", "load_options", "transform", "optimizer", "training_step"})
    metrics: ClassVar = (
        *QUALITY_METRICS,
        Metric("seconds_to_target_seconds", "time of the steps until an evaluation first met the target", "lower"),
        Metric("tokens_to_target_count", "tokens trained until an evaluation first met the target", "lower"),
        Metric("flops_to_target_flops", "model FLOPs until an evaluation first met the target", "lower"),
        Metric("gpu_energy_to_target_joules", "mean GPU power by the counter times the seconds to the target", "lower"),
    )

    def __post_init__(self) -> None:
        if (self.budget_tokens is None) == (self.budget_flops is None):
            raise ValueError("give exactly one of budget_tokens and budget_flops, and null for the other")
        if self.budget_tokens is not None and self.budget_tokens < FEWEST_STEPS * self.sequence_length:
            raise ValueError(f"budget_tokens must cover at least {FEWEST_STEPS} sequences of sequence_length tokens")
        if self.budget_flops is not None and self.budget_flops <= 0:
            raise ValueError("budget_flops must be above 0")
        if self.batch_tokens != LAW and (self.batch_tokens < 1 or self.batch_tokens % self.sequence_length):
            raise ValueError("batch_tokens must be a multiple of sequence_length, or step_law")
        if self.learning_rate != LAW and self.learning_rate <= 0:
            raise ValueError("learning_rate must be above 0, or step_law")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError("warmup_ratio must lie between 0 and 1, below 1")
        if min(self.sequence_length - 1, self.evaluations, self.held_out_windows) < 1:
            raise ValueError("sequence_length must be at least 2, evaluations and held_out_windows at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError("micro_batch_size must be at least 1, or null for the whole batch")

    def context_tokens(self) -> int:
        """The length of its sequences."""
        return self.sequence_length

    def skip_reason(self, context: Context) -> str | None:
        """A budget in FLOPs needs a model whose FLOPs are known."""
        if self.budget_flops is None:
            return None
        try:
            unknown = self._flops_of_a_sequence(context.model.empty(context.configuring), context) is None
        except NotImplementedError:
            unknown = True
        except (ValueError, TypeError, OSError):  # what cannot be built is said by the model's check
            return None
        return "budget_flops needs a model whose FLOPs have a closed form; use budget_tokens" if unknown else None

    def prepare(self, model: Any, context: Context) -> Session:
        """Settle the run's sizes, read the text, evaluate once, make the optimizer."""
        tokens = self._tokens(model, context)
        parameters = step_law.non_embedding_parameters(model)
        batch = step_law.batch_tokens(tokens) if self.batch_tokens == LAW else self.batch_tokens
        batch_size = max(1, round(batch / self.sequence_length))
        steps = int(tokens / (batch_size * self.sequence_length))
        if steps < FEWEST_STEPS:
            raise ValueError(
                f"the budget of {tokens:,.0f} tokens holds {steps} steps of {batch_size} sequences; raise it, or lower "
                "batch_tokens or sequence_length"
            )
        rate = step_law.learning_rate(parameters, tokens) if self.learning_rate == LAW else self.learning_rate
        micro = min(self.micro_batch_size or batch_size, batch_size)
        recipe = Recipe(steps, batch_size, self.sequence_length, rate, self.held_out_windows, micro)
        return Pretraining(self, recipe, parameters, model, context)

    def _tokens(self, model: Any, context: Context) -> float:
        """Tokens of the budget."""
        if self.budget_tokens is not None:
            return self.budget_tokens
        each = self._flops_of_a_sequence(model, context)
        if each is None or self.budget_flops is None:
            raise ValueError("budget_flops needs a model whose FLOPs have a closed form; use budget_tokens")
        return self.budget_flops / each * self.sequence_length

    def _flops_of_a_sequence(self, model: Any, context: Context) -> float | None:
        update, length = acting(context.techniques, "training_step"), self.sequence_length
        return step_flops(cost_of(model), update, length, (1, length))


class Pretraining(Training):
    """A training run with a schedule and a learning curve."""

    def __init__(self, workload: Pretrain, recipe: Recipe, parameters: int, model: Any, context: Context) -> None:
        super().__init__(recipe, model, context, text_of(context))
        self.workload, self.parameters = workload, parameters
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        self.peaks = [float(group["lr"]) for group in groups]
        self.losses: list[Any] = []
        parts = range(1, workload.evaluations + 1)
        self.stops = {max(1, round(recipe.steps * part / workload.evaluations)) for part in parts}
        #: Steps done and quality at each evaluation.
        self.curve: list[tuple[int, float]] = [(0, self.quality_before)]
        self.aside = self.evaluation_seconds = 0.0

    def default_optimizer(self, parameters: list[Any]) -> Any:
        """AdamW; vectors, which are gains and biases, do not decay."""
        import torch

        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        groups = [(matrices, WEIGHT_DECAY), (vectors, 0.0)]
        described = [{"params": group, "weight_decay": decay} for group, decay in groups if group]
        return torch.optim.AdamW(described, lr=self.recipe.learning_rate, betas=BETAS)

    def learning_rate(self) -> float:
        """The baseline's at the next step."""
        return self.recipe.learning_rate * self._share()

    def quality(self) -> tuple[float, float]:
        """As many windows at once as sequences in training, so that an evaluation's memory stays below a step's."""
        size, each = self.recipe.micro_batch_size, self.text.bytes_per_token
        return bits_per_byte(self.model, self.windows, self.device, size, each)

    def _share(self) -> float:
        return schedule(self.steps_done, self.recipe.steps, self.workload.warmup_ratio)

    def before_step(self) -> None:
        """The next batch; an evaluation where one is due."""
        if self.steps_done in self.stops and self.steps_done < self.recipe.steps:
            started = time.perf_counter()
            self.curve.append((self.steps_done, self.quality()[0]))
            seconds = time.perf_counter() - started
            self.aside += seconds
            self.evaluation_seconds += seconds
        super().before_step()

    def forget(self) -> None:
        """The curve goes back to the first step; only the time beside the window's steps begins anew."""
        self.aside = 0.0

    def aside_seconds(self) -> float:
        return self.aside

    def step(self) -> None:
        share = self._share()
        for group, peak in zip(self.optimizer.param_groups if self.optimizer else (), self.peaks, strict=True):
            if hasattr(group["lr"], "fill_"):  # an optimizer may keep it on the device
                group["lr"].fill_(peak * share)
            else:
                group["lr"] = peak * share
        super().step()
        self.losses.append(self.loss)

    def samples(self) -> Mapping[str, list[float]]:
        """The loss of each step, warm-up included, and the held-out loss by tokens."""
        return {
            "train_loss_nats": [float(loss) for loss in self.losses],
            "curve_tokens_count": [float(steps * self.recipe.step_tokens) for steps, _ in self.curve],
            "curve_quality_bits_per_byte": [quality for _, quality in self.curve],
        }

    def outcome(self) -> Mapping[str, float | None]:
        """The last evaluation; what a target took is derived from the curve when the steps' times are known."""
        found = super().outcome()
        self.curve.append((self.steps_done, found["quality_bits_per_byte"] or math.nan))
        return {**dict.fromkeys(metric.name for metric in Pretrain.metrics), **found}

    def facts(self) -> Mapping[str, Any]:
        tokens, recipe = self.recipe.steps * self.recipe.step_tokens, self.recipe
        by_law = [name for name in ("learning_rate", "batch_tokens") if getattr(self.workload, name) == LAW]
        return {
            **super().facts(),
            "steps": recipe.steps,
            "batch_sequences": recipe.batch_size,
            "micro_batch_sequences": recipe.micro_batch_size,
            "peak_learning_rate": recipe.learning_rate,
            "schedule": f"{self.workload.warmup_ratio:.0%} linear warm-up, cosine to {LAST_SHARE:.0%}",
            "non_embedding_parameters": self.parameters,
            "passes_over_text": tokens / len(self.text.train),
            "by_step_law": by_law,
            "step_law": step_law.SOURCE if by_law else None,
            "step_law_warning": step_law.beyond(self.parameters, tokens) if by_law else None,
            "tuning_trials_count": 0 if len(by_law) == 2 else "not known: what was given may have been searched for",
            "target_bits_per_byte": self.workload.target_bits_per_byte,
            "evaluation_seconds": self.evaluation_seconds,
        }


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """The share of the peak learning rate at a step, counted from 0: it is 1 after the warm-up, a tenth at the end."""
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2
