"""Batches of tokens from a text, and the loss on the part that was held out."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.corpora.text import Text


@dataclass(frozen=True)
class Tokens:
    """A text as token ids: two sequences of whole numbers, and how many bytes a held-out token stands for."""

    train: Sequence[int]
    held_out: Sequence[int]
    bytes_per_token: float
    facts: dict[str, Any]


def tokenize(text: Text, tokenizer: Any) -> Tokens:
    """Bytes as they are, or the ids of a checkpoint's own tokenizer."""
    facts = {
        "corpus_sha256": text.sha256,
        "corpus_size_bytes": text.size_bytes,
        "corpus_documents": text.documents,
        "tokenizer": type(tokenizer).__name__ if tokenizer else "bytes",
    }
    if tokenizer is None:
        return Tokens(text.train, text.held_out, 1.0, facts)
    train, held_out = (
        array("l", tokenizer.encode(part.decode(errors="replace"), add_special_tokens=False))
        for part in (text.train, text.held_out)
    )
    return Tokens(train, held_out, len(text.held_out) / len(held_out), facts)


def random_batch(text: Sequence[int], batch_size: int, length: int, generator: Any) -> Any:
    """Windows of `length` tokens at random places: a (batch_size, length) int64 tensor on the host."""
    import torch

    if len(text) < length + 1:
        raise ValueError(f"the text holds {len(text)} tokens, too few for sequences of {length}; give more text")
    starts = torch.randint(len(text) - length, (batch_size,), generator=generator)
    return _windows(text, starts.tolist(), length)


def held_out_windows(text: Sequence[int], count: int, length: int) -> Any:
    """Windows spread evenly over the held-out text, the same for every trial: (count, length) int64."""
    count = max(1, min(count, len(text) // length))
    stride = len(text) // count
    return _windows(text, [i * stride for i in range(count)], length)


def _windows(text: Sequence[int], starts: Sequence[int], length: int) -> Any:
    import torch

    return torch.tensor([list(text[start : start + length]) for start in starts])


def bits_per_byte(
    model: Any, windows: Any, device: str, batch_size: int = 16, bytes_per_token: float = 1.0
) -> tuple[float, float]:
    """Mean loss in bits per byte, and the standard error over windows.

    A token's loss is spread over the bytes that a held-out token stands for on average.

    Logits are taken in float32; a model in evaluation mode is left so.
    """
    import torch

    was_training = model.training
    model.eval()
    losses = []
    with torch.no_grad():
        for chunk in windows.split(batch_size):
            tokens = chunk.to(device)
            # Prompt and prefix methods put positions of their own before the text; only the text's count.
            logits = model(input_ids=tokens, use_cache=False).logits[:, -tokens.shape[1] :]
            losses.append(_loss_of_each(logits[:, :-1], tokens[:, 1:]))
    model.train(was_training)
    return _mean_bits(losses, bytes_per_token)


def bits_per_byte_through_cache(
    model: Any,
    windows: Any,
    device: str,
    new_cache: Callable[[int], Any],
    batch_size: int = 16,
    bytes_per_token: float = 1.0,
) -> tuple[float, float]:
    """As `bits_per_byte`, for the second half of each window after the first was read into a cache.

    What a quantized or shortened cache costs shows only in what later tokens read back from it.
    """
    import torch

    half, losses = windows.shape[1] // 2, []
    with torch.no_grad():
        for chunk in windows.split(batch_size):
            tokens, cache = chunk.to(device), new_cache(windows.shape[1])
            model(input_ids=tokens[:, :half], past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = model(input_ids=tokens[:, half:], past_key_values=cache, use_cache=True).logits
            losses.append(_loss_of_each(logits[:, :-1], tokens[:, half + 1 :]))
    return _mean_bits(losses, bytes_per_token)


def _loss_of_each(logits: Any, targets: Any) -> Any:
    """Mean loss in nats of each sequence, in float32."""
    import torch

    flat = torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none"
    )
    return flat.view(len(targets), -1).mean(1)


def _mean_bits(losses: list[Any], bytes_per_token: float) -> tuple[float, float]:
    import torch

    bits = torch.cat(losses).double().cpu() / math.log(2) / bytes_per_token
    error = bits.std().item() / math.sqrt(len(bits)) if len(bits) > 1 else float("nan")
    return bits.mean().item(), error
