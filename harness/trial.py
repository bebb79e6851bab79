"""A trial: one fully specified measurement as plain data, and the identity of what it measures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

#: Raised when the meaning of the identity changes, so that old rows are not taken for new ones.
IDENTITY_VERSION = 1

#: What of a changed architecture can be made equal to the untouched model's, by one of its sizes.
MATCHES = ("none", "parameters", "active_parameters", "flops", "kv_bytes")


@dataclass(frozen=True)
class Part:
    """A chosen option: its name, the class that implements it, and every field of that class, defaults included."""

    name: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)
    #: What the user changed from the option's own file, as `key=value`; it keeps two variants apart in a table.
    changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`lora`, or `lora[r=4]` when the user changed something."""
        return f"{self.name}[{','.join(self.changes)}]" if self.changes else self.name


@dataclass(frozen=True)
class Trial:
    """What to measure. Everything in it decides the result; nothing else is in it."""

    model: Part
    techniques: tuple[Part, ...]
    workload: Part
    corpus: Part
    protocol: dict[str, Any]
    meters: tuple[Part, ...]
    device: str
    seed: int
    #: Facts outside the configuration that decide what is measured (content hash of local weights).
    content: dict[str, Any] = field(default_factory=dict)
    #: One of `MATCHES`.
    match: str = "none"

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over what is measured."""
        return _digest(self._identity())

    @property
    def config_id(self) -> str:
        """Like `id` without the seed: repeats of one configuration share it."""
        return _digest({**self._identity(), "seed": None})

    @property
    def technique_label(self) -> str:
        """`none`, `lora` or the stack `nf4+lora`; with what is matched, where something is."""
        stack = "+".join(part.label for part in self.techniques)
        return stack if self.match == "none" else f"{stack} match={self.match}"

    @property
    def label(self) -> str:
        """One line for people: model, technique, workload, seed."""
        return f"{self.model.label} {self.technique_label} {self.workload.label} seed={self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` turns it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        return cls(
            model=_part(data["model"]),
            techniques=tuple(_part(item) for item in data["techniques"]),
            workload=_part(data["workload"]),
            corpus=_part(data["corpus"]),
            protocol=data["protocol"],
            meters=tuple(_part(item) for item in data["meters"]),
            device=data["device"],
            seed=data["seed"],
            content=data["content"],
            match=data.get("match", "none"),
        )

    def _identity(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "techniques": self.techniques,
            "workload": self.workload,
            "corpus": self.corpus,
            "meters": self.meters,
        }
        return {
            "version": IDENTITY_VERSION,
            "protocol": self.protocol,
            "device": self.device,
            "seed": self.seed,
            "content": self.content,
            # Trials from before there was a match keep their ids.
            **({} if self.match == "none" else {"match": self.match}),
            **{key: _plain(value) for key, value in parts.items()},
        }


def _part(data: dict[str, Any]) -> Part:
    return Part(data["name"], data["target"], data["options"], tuple(data["changes"]))


def _plain(value: Part | tuple[Part, ...]) -> Any:
    # A name or a label is how people call a part; the class and its fields are what it is.
    if isinstance(value, Part):
        return {"target": value.target, "options": value.options}
    return [_plain(part) for part in value]


def _digest(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
