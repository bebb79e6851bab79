"""Cross-entropy of the next token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from harness.decoder.parts import Objective


class NextToken(Objective):
    """The mean over all positions but the last, which has no next; what parts ask for is added."""

    def forward(self, model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hidden, run = model.hidden(input_ids)
        logits = model.lm_head(hidden)
        return logits, next_token_loss(logits, labels) + sum(run.losses, start=logits.new_zeros(()))


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats, in float32, of (batch, tokens, vocabulary) against the labels one place later."""
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())


PART: Any = NextToken
