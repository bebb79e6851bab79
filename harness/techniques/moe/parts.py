"""What techniques share that put experts of our own decoder into an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Context, Technique
from harness.techniques.twin import no_twin, with_part


class ExpertsTechnique(Technique):
    """Replaces the twin's dense feed-forward layers by experts whose width is a part of the dense one's.

    To equal a baseline in size, the experts become narrower or wider, not the dense layer that they were cut from.
    """

    width_field: ClassVar[str | tuple[str, ...]] = "feed_forward.width"

    def divisor(self) -> int:
        """What the dense layer's width must divide by."""
        raise NotImplementedError

    def parts(self, width: int) -> dict[str, Any]:
        """Place to part, in an architecture whose dense layer is `width` wide."""
        raise NotImplementedError

    def skip_reason(self, context: Context) -> str | None:
        """Needs an architecture that has a twin, and a width that divides."""
        architecture = context.model.architecture_facts(())
        reason = no_twin(architecture)
        if reason is None and architecture["intermediate_size"] % self.divisor():
            return f"intermediate_size {architecture['intermediate_size']} does not divide by {self.divisor()}"
        return reason

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """The twin, with these parts in place."""
        for place, part in self.parts(architecture["intermediate_size"]).items():
            architecture = with_part(architecture, place, part)
        return architecture


@dataclass(frozen=True)
class RoutedExperts(ExpertsTechnique):
    """`experts`, each 1/experts_per_token as wide as the dense layer; a router sends a token to `experts_per_token`."""

    experts: int = 8
    experts_per_token: int = 2
    #: Weight of the load-balancing loss.
    balance: float = 0.01

    family: ClassVar = "moe"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        check_places(self.experts, self.experts_per_token, self.balance)

    def divisor(self) -> int:
        """Experts that a token visits."""
        return self.experts_per_token

    def mixture(self, width: int, **options: Any) -> dict[str, Any]:
        """The feed-forward layer in place of a dense one of `width`, with further options of its kind."""
        return {
            "kind": "mixture",
            "experts": self.experts,
            "experts_per_token": self.experts_per_token,
            "width": width // self.experts_per_token,
            "balance": self.balance,
            **options,
        }


def check_places(experts: int, experts_per_token: int, balance: float = 0.0) -> None:
    """ValueError unless a token can visit so many different experts, and the load-balancing loss is one."""
    if balance < 0:
        raise ValueError("balance must not be negative; 0 leaves the load-balancing loss out")
    if not 0 < experts_per_token <= experts:
        raise ValueError(f"experts_per_token must lie between 1 and the {experts} that there are to choose from")
