"""Did each technique change anything? A technique that silently does nothing must not be ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.interfaces import Context, Technique, moments
from harness.run.tensors import elements, model_bytes


@dataclass(frozen=True)
class Fingerprint:
    """What a model is made of."""

    parameters: int
    trainable: int
    stored_bytes: int
    dtypes: tuple[str, ...]
    modules: Mapping[str, int]

    def difference(self, other: Fingerprint) -> str:
        """What `other` has otherwise, for people; empty when nothing."""
        found = []
        for name, before, after in (
            ("parameters", self.parameters, other.parameters),
            ("trainable parameters", self.trainable, other.trainable),
            ("stored bytes", self.stored_bytes, other.stored_bytes),
        ):
            if before != after:
                found.append(f"{name} {before:,} -> {after:,}")
        if self.dtypes != other.dtypes:
            found.append(f"dtypes {'/'.join(self.dtypes)} -> {'/'.join(other.dtypes)}")
        gained, lost = Counter(other.modules), Counter(self.modules)
        for sign, left in (("+", gained - lost), ("-", lost - gained)):
            found += [f"{sign}{count} {name}" for name, count in left.most_common(3)]
        return "; ".join(found)


def fingerprint(model: Any) -> Fingerprint:
    """Count what a model is made of."""
    parameters = list(model.parameters())
    return Fingerprint(
        parameters=_count(model),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        stored_bytes=_bytes_by_shape(model) if model.device.type == "meta" else model_bytes(model),
        dtypes=tuple(sorted({f"{type(p).__name__}[{p.dtype}]".replace("torch.", "") for p in parameters})),
        modules=Counter(type(module).__name__ for module in model.modules()),
    )


def architecture_evidence(context: Context, technique: Technique) -> str:
    """What `configure` changed in the model as it is built, not only in its configuration."""
    before = context.model.architecture_facts(())
    after = technique.configure(before)
    if before == after:
        return ""
    shapes = fingerprint(context.model.empty(())).difference(fingerprint(context.model.empty((technique,))))
    keys = ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])
    return f"{keys}; {shapes}" if shapes else keys


def loading_evidence(context: Context, loaded: Fingerprint) -> str:
    """What `load_options` changed: the stored bytes and dtypes against a plain build of the same architecture."""
    return fingerprint(context.model.empty(context.configuring)).difference(loaded)


def all_changes(
    context: Context, facts: Mapping[str, Any], changes: Mapping[str, list[str]], flags: list[str]
) -> dict[str, str]:
    """What each technique changed, by its name, and what a match did; a technique that did nothing is flagged."""
    found = {}
    for name, technique in zip(changes, context.techniques, strict=True):
        lines = [*changes[name], session_evidence(technique, facts)]
        found[name] = "; ".join(line for line in lines if line)
        if moments(technique) and not found[name]:
            flags.append(f"technique {name} changed nothing that was seen")
    if context.match is not None:
        found["match"] = context.match.evidence(None) or ""
    return found


def session_evidence(technique: Technique, facts: Mapping[str, Any]) -> str:
    """What the session says it used in the moments that only a session can see."""
    acts, found = moments(technique), []
    optimizer = str(facts.get("optimizer"))
    if "optimizer" in acts and facts.get("optimizer") and optimizer != "torch.optim.adamw.AdamW":
        found.append(f"optimizer {optimizer}")
    if "training_step" in acts and facts.get("training_step") not in (None, "backpropagation"):
        found.append(f"training step {facts['training_step']}")
    if "cache" in acts and facts.get("cache") not in (None, "DynamicCache"):
        found.append(f"cache {facts['cache']}")
    if "generation" in acts and facts.get("generation"):
        found.append(f"generation {facts['generation']}")
    return "; ".join(found)


def _count(model: Any) -> int:
    found = {
        id(parameter): elements(parameter, module, name)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    return sum(found.values())


def _bytes_by_shape(model: Any) -> int:
    """Bytes by shape, because tensors on the meta device have no storage to count."""
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
