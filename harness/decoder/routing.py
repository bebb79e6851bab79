"""Which experts a token visits, and what training adds so that all of them are visited."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Run


class Router(nn.Module):
    """Scores `choices` for each token and takes the `visited` best of them.

    `scores` is `softmax` over all choices or `sigmoid` of each; the weights are the scores, which `normalized` divides
    by the sum of those taken. While training, `balance` times the load-balancing loss is added to the loss. No expert
    has a capacity, so no token is dropped: what one token gets would otherwise depend on later ones.
    """

    def __init__(
        self,
        config: DecoderConfig,
        choices: int,
        visited: int,
        *,
        scores: str = "softmax",
        normalized: bool = False,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.choices, self.visited, self.scoring = choices, visited, scores
        self.normalized, self.balance = normalized, balance
        self.weight = nn.Parameter(torch.empty(choices, config.hidden_size).normal_(std=config.initializer_range))

    def forward(self, hidden: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """(tokens, hidden) to (tokens, visited): the numbers of the choices, and their weights."""
        logits = self.logits(hidden, run).float()
        scores = logits.sigmoid() if self.scoring == "sigmoid" else logits.softmax(-1)
        index = self.chosen(scores)
        weights = scores.gather(-1, index)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        if run.training:
            self.learn(scores, index, run)
        return index, weights.to(hidden.dtype)

    def logits(self, hidden: Tensor, run: Run) -> Tensor:
        """How well each choice fits each token."""
        return functional.linear(hidden, self.weight)

    def chosen(self, scores: Tensor) -> Tensor:
        """The best."""
        return scores.topk(self.visited, -1).indices

    def learn(self, scores: Tensor, index: Tensor, run: Run) -> None:
        """What training does with each batch's routes."""
        if self.balance:
            run.losses.append(self.balance * balance_loss(scores, index))


def visits(index: Tensor, choices: int) -> Tensor:
    """How many tokens took each choice."""
    counts = torch.zeros(choices, dtype=torch.int64, device=index.device)
    return counts.scatter_add(0, index.flatten(), torch.ones_like(index).flatten())


def balance_loss(scores: Tensor, index: Tensor, costs: Tensor | None = None) -> Tensor:
    """Switch's loss (Fedus et al. 2021, equations 4 to 6), for several choices a token: 1 where all is even.

    The sum over choices of the share of visits times the mean score, times the number of choices. `costs` weigh the
    choices: the optimum then gives each a share in inverse proportion to its cost (MoE++, arXiv 2410.07348, section 3).
    """
    choices = scores.shape[-1]
    shares = visits(index, choices) / index.numel()
    means = (scores / scores.sum(-1, keepdim=True)).mean(0)
    products = shares * means if costs is None else costs * shares * means
    return choices * products.sum()
