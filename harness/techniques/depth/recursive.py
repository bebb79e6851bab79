"""Layers that run several times over, for all tokens or for those that a router keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.interfaces import Context, moments
from harness.techniques.parts import PartTechnique


@dataclass(frozen=True)
class Recursive(PartTechnique):
    """All layers but the first and the last are `recursions` runs of the same ones; as many run as before.

    It has fewer weights at equal FLOPs and an equal cache.
    Source: Bae et al. 2025 (Mixture-of-Recursions), section 2.1, Middle-Cycle; their baseline without routing.
    """

    recursions: int = 2

    family: ClassVar = "depth"
    paper: ClassVar = "Mixture-of-Recursions, arXiv 2507.10524"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if self.recursions < 2:
            raise ValueError("recursions must be at least 2")

    def parts(self) -> dict[str, Any]:
        """The stack."""
        return {"stack": {"kind": "recursive", "recursions": self.recursions}}

    def skip_reason(self, context: Context) -> str | None:
        """Needs layers between the first and the last that divide into runs."""
        layers = context.model.architecture_facts(()).get("num_hidden_layers", 0) - 2
        if layers < self.recursions or layers % self.recursions:
            return f"{layers} layers between the first and the last do not divide into {self.recursions} runs"
        return super().skip_reason(context)


@dataclass(frozen=True)
class MixtureOfRecursions(Recursive):
    """Shared layers that fewer tokens run with each recursion; tokens that left are not computed.

    `routing` is `expert`, where each recursion takes a fixed share of the tokens, or `token`, where each token is told
    its depth at once. Model FLOPs and cache bytes of a row are those of the shares (with R recursions, the r-th takes
    (R - r + 1) / R of the tokens). Expert choice stays within `slack` tokens of that in each sequence, whatever the
    router learned; with token choice the router decides, and what ran is the row's `executed_depth_ratio`.
    Source: Bae et al. 2025, section 2.2; the paper's models have 2 to 4 recursions. The bound by `slack` is ours.
    """

    routing: Literal["expert", "token"] = "expert"
    alpha: float = 0.1
    slack: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.routing not in ("expert", "token"):
            raise ValueError("routing must be expert or token")
        if self.alpha <= 0 or self.slack < 1:
            raise ValueError("alpha must be above 0, and slack at least 1 token")

    def parts(self) -> dict[str, Any]:
        """The stack."""
        options = {"recursions": self.recursions, "routing": self.routing, "alpha": self.alpha, "slack": self.slack}
        return {"stack": {"kind": "routed_recursive", **options}}

    def skip_reason(self, context: Context) -> str | None:
        """Keeps a cache for each recursion, which no other technique's cache can stand in for."""
        if any("cache" in moments(technique) for technique in context.techniques):
            return "each recursion keeps its own tokens' keys and values; no other cache fits"
        return super().skip_reason(context)
