"""Any causal language model of transformers, from an architecture, a local directory, or a pinned hub id."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.interfaces import Context, Model, Technique, moments


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


def configuration(architecture: Mapping[str, Any]) -> Any:
    """The transformers configuration; ValueError for an unknown model type or field, or heads that do not divide."""
    from transformers import AutoConfig

    from harness.building import nearest

    facts = copy.deepcopy(dict(architecture))  # transformers fills nested dictionaries in place
    model_type = facts.pop("model_type", None)
    try:
        config_class = type(AutoConfig.for_model(model_type))
    except ValueError as error:
        raise ValueError(f"model_type {model_type!r} is not known to transformers; name one of its models") from error
    known = _fields(config_class)
    for key in facts:
        if key not in known:
            raise ValueError(f"{config_class.__name__} has no field {key!r}.{nearest(key, known)}")
    _check_heads(facts)
    return config_class(**facts)


def build_empty(architecture: Mapping[str, Any]) -> Any:
    """The model without data, for its shapes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration(architecture))


def build(architecture: Mapping[str, Any], options: Mapping[str, Any], device: str, seed: int) -> Any:
    """A model with seeded random weights, made on the device in its final dtype without a copy on the host."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, options["dtype"])
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            configuration(architecture), dtype=dtype, attn_implementation=options["attn_implementation"]
        )
    return quantized(model, options, device).eval()


def quantized(model: Any, options: Mapping[str, Any], device: str) -> Any:
    """The same weights through transformers' quantizing loader, when a technique asked for it."""
    import torch

    if "quantization_config" not in options:
        return model
    loaded = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        quantization_config=options["quantization_config"],
        attn_implementation=options["attn_implementation"],
        dtype=getattr(torch, options["dtype"]),
        device_map={"": device},
    )
    # A state dict without a checkpoint behind it is unusual: a weight that was not taken over would be random.
    if not torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight):
        raise RuntimeError("the quantizing loader did not take over the weights it was given")
    return loaded


def _fields(config_class: type) -> set[str]:
    import dataclasses
    import inspect

    names = set(vars(config_class()))
    if dataclasses.is_dataclass(config_class):
        names |= {item.name for item in dataclasses.fields(config_class)}
    names |= set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "attribute_map", {}))
    return {name for name in names if not name.startswith("_")} - {"self", "kwargs", "args"}


def _check_heads(facts: Mapping[str, Any]) -> None:
    hidden, heads = facts.get("hidden_size"), facts.get("num_attention_heads")
    groups = facts.get("num_key_value_heads")
    if hidden and heads and "head_dim" not in facts and "qk_rope_head_dim" not in facts and hidden % heads:
        raise ValueError(f"hidden_size {hidden} does not divide by num_attention_heads {heads}; change one of them")
    if heads and groups and heads % groups:
        raise ValueError(
            f"num_attention_heads {heads} does not divide by num_key_value_heads {groups}; use a divisor of {heads}"
        )


def _directory_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
