"""The Step Law: learning rate and batch size of a pretraining run from its size alone, without a search.

Source: Li et al. 2025, "Predictable Scale: Part I", arXiv 2503.04715, equation 1. It was fitted with AdamW (0.9, 0.95),
weight decay 0.1, gradients clipped to 1, warm-up and a cosine to a fixed 1e-5; a cosine to a share of the peak, which
`pretrain` uses, has another optimum by a little.
"""

from __future__ import annotations

from typing import Any

SOURCE = "Step Law, arXiv 2503.04715: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571 tokens"
#: Sizes of model and text that the law was fitted on: non-embedding parameters and tokens.
FITTED_PARAMETERS = (60e6, 1.1e9)
FITTED_TOKENS = (2e9, 100e9)


def learning_rate(parameters: float, tokens: float) -> float:
    """The best peak learning rate for so many non-embedding parameters and training tokens."""
    return 1.79 * parameters**-0.713 * tokens**0.307


def batch_tokens(tokens: float) -> float:
    """The best number of tokens in a batch for so many training tokens."""
    return 0.58 * tokens**0.571


def beyond(parameters: float, tokens: float) -> str | None:
    """In what a run lies outside the sizes that the law was fitted on, or None."""
    found = [
        f"{size:.3g} {what} (fitted on {low:.3g} to {high:.3g})"
        for what, size, (low, high) in (
            ("non-embedding parameters", parameters, FITTED_PARAMETERS),
            ("tokens", tokens, FITTED_TOKENS),
        )
        if not low <= size <= high
    ]
    return f"the law is extrapolated: {', '.join(found)}" if found else None


def non_embedding_parameters(model: Any) -> int:
    """The law's N: all parameters but those of the vocabulary, of a mixture those of every expert.

    The paper finds one law for dense models and for mixtures at any share of active parameters; we take its N as the
    total there too.
    """
    from harness.run.evidence import fingerprint

    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    of_vocabulary = {id(item): item for layer in layers if layer is not None for item in layer.parameters()}
    return fingerprint(model).parameters - sum(item.numel() for item in of_vocabulary.values())
