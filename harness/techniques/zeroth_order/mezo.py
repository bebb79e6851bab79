"""Training with two forward passes and no backpropagation, at the memory of inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Technique


@dataclass(frozen=True)
class MeZO(Technique):
    """Zeroth-order SGD with in-place, seeded perturbations.

    Source: Malladi et al. 2023, algorithm 1: z is drawn anew from its seed instead of being kept, so that no copy of
    the parameters exists. `learning_rate_ratio` scales the baseline's learning rate: section 3 and appendix D of the
    paper use rates far below those of backpropagation.
    """

    epsilon: float = 1e-3
    learning_rate_ratio: float = 0.001

    family: ClassVar = "zeroth_order"
    paper: ClassVar = "MeZO, arXiv 2305.17333"
    library: ClassVar = "this harness"

    def __post_init__(self) -> None:
        if self.epsilon <= 0:
            raise ValueError("epsilon must be above 0")

    def training_step(self, model: Any, batch: Any, learning_rate: float, seed: int) -> Any:
        """One update; returns the mean of the two losses."""
        import torch

        def loss() -> Any:
            with torch.no_grad():
                return model(input_ids=batch, labels=batch, use_cache=False).loss

        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return spsa_step(parameters, loss, self.epsilon, learning_rate * self.learning_rate_ratio, seed)

    def training_flops(self, forward: float, backward: float) -> float:
        """Two forward passes."""
        return 2 * forward


def spsa_step(parameters: list[Any], loss: Callable[[], Any], epsilon: float, learning_rate: float, seed: int) -> Any:
    """Estimate the gradient along one random direction and step against it, in place.

    g = (L(theta + eps z) - L(theta - eps z)) / (2 eps); theta <- theta - lr g z (algorithm 1). Returns the mean loss.
    """
    import torch

    def move(amount: float) -> None:
        generators: dict[str, Any] = {}
        with torch.no_grad():
            for parameter in parameters:
                key = str(parameter.device)
                if key not in generators:
                    generators[key] = torch.Generator(parameter.device).manual_seed(seed)
                z = torch.randn(
                    parameter.shape, generator=generators[key], dtype=parameter.dtype, device=parameter.device
                )
                parameter.add_(z, alpha=amount)

    move(epsilon)
    above = loss()
    move(-2 * epsilon)
    below = loss()
    move(epsilon)
    gradient = float((above - below) / (2 * epsilon))
    move(-learning_rate * gradient)
    return (above + below) / 2
