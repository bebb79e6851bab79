"""A small model trained here once and kept, so that quality means something without a network."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.interfaces import Context
from harness.models.architecture import build, quantized
from harness.models.hf import HF

#: Raised when the recipe's meaning changes, so that old weights are not taken for new ones.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class Trained(HF):
    """Random weights trained on Python source for `steps` steps; each architecture gets its own.

    The weights lie in the results folder under a name that is the hash of the recipe. Making them is a process of its
    own before the first trial, outside every measurement.
    """

    steps: int = 200
    batch_size: int = 8
    sequence_length: int = 64
    learning_rate: float = 2e-3

    def check(self, context: Context) -> None:
        """As for random weights; ValueError also for weights that are given."""
        if self.weights != "random":
            raise ValueError("a model that is trained here starts from weights=random; use a model of its own instead")
        super().check(context)

    def ingredients(self, context: Context) -> dict[str, Any]:
        """The recipe of the weights."""
        return {
            "version": RECIPE_VERSION,
            "architecture": self.architecture_facts(context.configuring),
            "steps": self.steps,
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "learning_rate": self.learning_rate,
            "corpus": "python_source",
        }

    def make_ingredients(self, context: Context) -> None:
        """Train and keep the weights, unless they are there."""
        from safetensors.torch import save_file

        path = self._path(context)
        if path.exists():
            return
        model = self._train(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: value.cpu().contiguous() for name, value in _untied(model).items()}, str(unfinished))
        os.replace(unfinished, path)

    def load(self, context: Context) -> Any:
        """The trained weights on the context's device, in evaluation mode."""
        import torch
        from safetensors.torch import load_file

        options = self.load_options(context)
        plain = {key: value for key, value in options.items() if key != "quantization_config"}
        model = build(self.architecture_facts(context.configuring), plain, context.device, seed=0)
        missing, unexpected = model.load_state_dict(load_file(str(self._path(context))), strict=False)
        if unexpected or set(missing) - set(getattr(model, "_tied_weights_keys", None) or ()):
            raise RuntimeError(f"trained weights do not fit: missing {missing}, unexpected {unexpected}")
        return quantized(model.to(getattr(torch, options["dtype"])), options, context.device).eval()

    def _train(self, context: Context) -> Any:
        import torch

        from harness.corpora.python_source import PythonSource
        from harness.workloads.batches import random_batch

        model = build(
            self.architecture_facts(context.configuring),
            {"dtype": "float32", "attn_implementation": self.attention},
            context.device,
            seed=0,
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        generator = torch.Generator().manual_seed(0)
        text = PythonSource().load().train
        for _ in range(self.steps):
            batch = random_batch(text, self.batch_size, self.sequence_length, generator).to(context.device)
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return model

    def _path(self, context: Context) -> Path:
        text = json.dumps(self.ingredients(context), sort_keys=True, default=str)
        return Path(context.cache) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def _untied(model: Any) -> dict[str, Any]:
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    return {name: value for name, value in model.state_dict().items() if name not in tied}
