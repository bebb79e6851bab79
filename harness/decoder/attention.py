"""Softmax attention over keys and values, causal at the end of the sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    backend: str = "sdpa",
) -> Tensor:
    """(batch, heads, queries, width) over (batch, groups, keys, width); queries are the last of the keys' positions.

    `bias` is added to the scaled scores; `allowed` is True where a query may look, causality included. Both
    broadcast to (batch, heads, queries, keys).
    """
    queries, keys = query.shape[2], key.shape[2]
    if allowed is None and queries > 1 and not (queries == keys and bias is None and backend == "sdpa"):
        allowed = causal(queries, keys, query.device)
    mask = allowed
    if bias is not None:
        mask = bias.to(query.dtype) if allowed is None else bias.to(query.dtype).masked_fill(~allowed, -math.inf)
    if backend == "eager":
        return _eager(query, key, value, mask)
    options = {"is_causal": mask is None and queries > 1, "enable_gqa": query.shape[1] != key.shape[1]}
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys): True where the key is not later than the query, the last query being the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
