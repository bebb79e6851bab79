"""What a step gets done, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What one step gets done. Counts of zero mean none of that kind; None means unknown."""

    samples: int
    prompt_tokens: int = 0
    output_tokens: int = 0
    trained_tokens: int = 0
    #: Floating point operations that the method requires (PaLM, appendix B): recomputation is not counted.
    model_flops: float | None = None
    #: The same with the masked half of causal attention included.
    dense_model_flops: float | None = None
    #: Bytes that must move between memory and the processor at least once: weights touched, cache read and written.
    moved_bytes: float | None = None
    #: The dtype in which the matrix products run; it decides the roof.
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """Tokens that a user pays the step for: trained, else generated, else read."""
        return self.trained_tokens or self.output_tokens or self.prompt_tokens

    @property
    def token_kind(self) -> str:
        """Which tokens `tokens` counts: trained, output or prompt."""
        if self.trained_tokens:
            return "trained"
        return "output" if self.output_tokens else "prompt"
