"""Any causal language model of transformers, from an architecture, a local directory, or a pinned hub id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.interfaces import Context, Model, Technique, moments
from harness.models.architecture import build, build_empty


@dataclass(frozen=True)
class HF(Model):
    """A transformers causal LM.

    `weights` is `random` (seeded, made on the device in `dtype`), a local directory, or a hub id with `revision`.
    `architecture` holds `model_type` and fields of its configuration class; with pretrained weights it stays empty,
    because the checkpoint brings its own.
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
        return {"weights_sha256": _directory_hash(Path(self.weights))}

    def architecture_facts(self, techniques: Iterable[Technique]) -> dict[str, Any]:
        """The architecture after every technique's `configure`."""
        facts = dict(self.architecture) if self.weights == "random" else self._pretrained_configuration()
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
            build_empty(self.architecture_facts(context.techniques))
        elif not Path(self.weights).exists():
            self._check_hub_id()

    def empty(self, techniques: Iterable[Technique]) -> Any:
        """The model on the meta device."""
        import torch

        return build_empty(self.architecture_facts(techniques)).to(getattr(torch, self.dtype))

    def load(self, context: Context) -> Any:
        """Return the model on the context's device, in evaluation mode."""
        options = self.load_options(context)
        if self.weights != "random":
            return self._load_pretrained(context, options)
        return build(self.architecture_facts(context.techniques), options, context.device, context.seed)

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
        return model.eval()

    def _pretrained_configuration(self) -> dict[str, Any]:
        path = Path(self.weights) / "config.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def _check_hub_id(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.weights):
            raise ValueError(f"weights {self.weights!r} is neither `random`, a directory, nor a hub id (owner/name)")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError("a hub id needs model.revision as a full commit hash (40 hexadecimal digits)")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            hf_hub_download(self.weights, "config.json", revision=self.revision)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise ValueError(
                f"{self.weights} is not in the local cache and the hub does not answer ({type(error).__name__}); "
                "download it first, or use weights=random"
            ) from error


def _directory_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
