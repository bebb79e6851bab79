"""Cross-entropy of the next token at every exit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.decoder.objectives.next_token import next_token_loss
from harness.decoder.parts import Objective, zero_of


class EveryExit(Objective):
    """The mean over all exits, the last layer's among them, weighted by their depth (CALM, arXiv 2207.07061).

    All share the last norm and the output layer. Outside training there is one prediction and its loss.
    """

    def forward(self, model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hidden, run = model.hidden(input_ids)
        logits = model.lm_head(hidden)
        added = sum(run.losses, start=zero_of(logits))
        losses = [next_token_loss(model.lm_head(model.norm(exit_state)), labels) for exit_state in run.exits]
        losses.append(next_token_loss(logits, labels))
        depths = [*model.stack.after, len(model.stack.blocks)] if run.exits else [1]
        weighted = [depth * loss / sum(depths) for depth, loss in zip(depths, losses, strict=True)]
        return logits, sum(weighted, start=added)


PART: Any = EveryExit
