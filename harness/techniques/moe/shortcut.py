"""The shortcut-connected mixture: experts that run beside a dense layer and the next attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context
from harness.techniques.moe.parts import RoutedExperts


@dataclass(frozen=True)
class Shortcut(RoutedExperts):
    """Layers in pairs: two attentions and two dense layers, each half as wide as before, and one mixture from the
    middle of the first to the end of the second (LongCat-Flash, section 2.2; ScMoE).

    The mixture's experts are 1/experts_per_token as wide as the dense layer was, so that a pair's token meets as many
    feed-forward weights as before (the router aside): twice a half, and a whole in the mixture. The experts are plain
    ones, so that the connection is all that differs from `moe` in kind.
    """

    paper: ClassVar = "LongCat-Flash, arXiv 2509.01322; ScMoE, arXiv 2404.05019"
    width_field: ClassVar = ("feed_forward.width", "block.dense_width")

    def skip_reason(self, context: Context) -> str | None:
        """Needs layers that make pairs, too."""
        layers = context.model.architecture_facts(()).get("num_hidden_layers", 0)
        if layers % 2:
            return f"num_hidden_layers {layers} do not make pairs; use an even number"
        return super().skip_reason(context)

    def divisor(self) -> int:
        """Experts that a token visits, and the two halves of the dense layer."""
        return self.experts_per_token if self.experts_per_token % 2 == 0 else 2 * self.experts_per_token

    def parts(self, width: int) -> dict[str, Any]:
        """The pair, and what its mixture is."""
        return {
            "feed_forward": self.mixture(width, normalized=True),
            "block": {"kind": "shortcut", "dense_width": width // 2},
        }
