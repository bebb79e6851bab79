"""Any causal language model of transformers, from an architecture, a local directory, or a pinned hub id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.interfaces import Context, Model, Technique, moments
from harness.models.architecture import build, build_empty, configuration
from harness.models.checkpoint import (
    check_agreement,
    check_source,
    checkpoint_configuration,
    checkpoint_tokenizer,
    directory_hash,
)
from harness.models.closed_forms import say_forms


@dataclass(frozen=True)
class HF(Model):
    """A transformers causal LM.

    `weights` is `random` (seeded, made on the device in `dtype`), a local directory, or a hub id with `revision`.
    `architecture` holds `model_type` and fields of its configuration class; a checkpoint must agree with what it says.
    """

    architecture: dict[str, Any] = field(default_factory=dict)
    weights: str = "random"
    revision: str = ""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    attention: str = "sdpa"

    def identity(self) -> dict[str, Any]:
        """For a local directory the hash of its files: other weights are another measurement."""
        if self.weights == "random" or not Path(self.weights).is_dir():
            return {}
        return {"weights_sha256": directory_hash(Path(self.weights))}

    def architecture_facts(self, techniques: Iterable[Technique]) -> dict[str, Any]:
        """The architecture after every technique's `configure`."""
        facts = dict(self.architecture)
        for technique in techniques:
            facts = technique.configure(facts)
        return facts

    def skip_reason(self, context: Context) -> str | None:
        """Pretrained weights fix the architecture, so techniques that change it do not apply."""
        if self.weights != "random" and any("configure" in moments(technique) for technique in context.techniques):
            return "the architecture is fixed by pretrained weights"
        return None

    def check(self, context: Context) -> None:
        """Build the model on the meta device, which holds no data: what cannot exist fails here, and says why."""
        if self.weights == "random":
            build_empty(configuration(self.architecture_facts(context.configuring)))
        else:
            check_source(self.weights, self.revision)
            check_agreement(self.architecture, checkpoint_configuration(self.weights, self.revision))

    def empty(self, techniques: Iterable[Technique]) -> Any:
        """The model on the meta device."""
        import torch

        if self.weights == "random":
            config = configuration(self.architecture_facts(techniques))
        else:
            config = checkpoint_configuration(self.weights, self.revision)
        return build_empty(config).to(getattr(torch, self.dtype))

    def matching(self, quantity: str, techniques: tuple[Technique, ...], tokens: int) -> Technique:
        """One size of the architecture, found on the meta device when it is first needed."""
        from harness.models.matching import Matching

        return Matching(self, techniques, quantity, tokens)

    def tokenizer(self) -> Any:
        """The checkpoint's own; random weights read bytes."""
        return None if self.weights == "random" else checkpoint_tokenizer(self.weights, self.revision)

    def load(self, context: Context) -> Any:
        """Return the model on the context's device, in evaluation mode."""
        options = self.load_options(context)
        if self.weights != "random":
            return self._load_pretrained(context, options)
        return build(self.architecture_facts(context.configuring), options, context.device, context.seed)

    def load_options(self, context: Context) -> dict[str, Any]:
        """`dtype`, `attn_implementation` and what techniques add."""
        options: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": self.attention}
        for technique in context.techniques:
            options = technique.load_options(options)
        return options

    def _load_pretrained(self, context: Context, options: Mapping[str, Any]) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        options = {**options, "dtype": getattr(torch, options["dtype"])}
        model = AutoModelForCausalLM.from_pretrained(
            self.weights,
            revision=self.revision or None,
            use_safetensors=True,
            trust_remote_code=False,
            device_map={"": context.device},
            **options,
        )
        return say_forms(model).eval()
