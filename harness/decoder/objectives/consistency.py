"""Cross-entropy of two passes, and that they predict alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoder.configuration import DecoderConfig
from harness.decoder.objectives.next_token import next_token_loss
from harness.decoder.parts import Objective


class Consistency(Objective):
    """The batch passes twice, side by side, and parts draw each by lot: the cross-entropies of both and `weight` times
    the symmetric divergence of what they predict (THOR, arXiv 2110.04260, section 3).

    The paper's sum is halved, so that the loss stays in nats of one pass. Out of training there is one pass.
    """

    passes = 2.0

    def __init__(self, config: DecoderConfig, weight: float) -> None:
        super().__init__(config)
        self.weight = weight

    def forward(self, model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not model.training:
            logits = model.lm_head(model.hidden(input_ids)[0])
            return logits, next_token_loss(logits, labels)
        hidden, run = model.hidden(torch.cat([input_ids, input_ids]))
        logits = model.lm_head(hidden)
        one, other = logits.chunk(2)
        loss = next_token_loss(logits, torch.cat([labels, labels]))
        apart = symmetric_divergence(one[:, :-1], other[:, :-1])
        return one, loss + self.weight * apart / 2 + sum(run.losses, start=logits.new_zeros(()))


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """Half of KL(one || other) + KL(other || one), in nats, mean over positions, of logits (..., vocabulary)."""
    first, second = (logits.float().log_softmax(-1) for logits in (one, other))
    return ((first.exp() - second.exp()) * (first - second)).sum(-1).mean() / 2


PART: Any = Consistency
