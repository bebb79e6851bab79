"""Multi-head latent attention."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.parts import Mixer, Position, Run, linear, norm
from harness.decoder.positions.rope import Rope


class Latent(Mixer):
    """Keys and values of all heads come from one latent of `key_value_rank` numbers, and the cache keeps that latent.

    Places are told by `rotary_width` further numbers of queries and of one key for all heads (DeepSeek-V2, arXiv
    2405.04434, sections 2.1.2 and 2.1.3, equations 9 to 19); with `query_rank` the queries come from a latent too. A
    single new token leaves the cached latents as they are: its queries go through the keys' matrix, and what it
    gathers through the values' (the absorption that the end of section 2.1.2 speaks of). Unless said, the rank is four
    times the width of a head and the rotary width half of it, as in section 3.1.2.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer: int,
        position: Position,
        key_value_rank: int | None = None,
        rotary_width: int | None = None,
        query_rank: int | None = None,
    ) -> None:
        super().__init__(config, layer)
        self.config, self.heads, self.width = config, config.num_attention_heads, config.head_dim
        self.rank = key_value_rank or 4 * self.width
        self.rotary_width = rotary_width or self.width // 2
        if self.rotary_width % 2:
            raise ValueError(f"rotary_width {self.rotary_width} must be even: its numbers turn in pairs")
        query_width = self.heads * (self.width + self.rotary_width)
        self.compress_query = self.query_norm = None
        if query_rank is not None:
            self.compress_query = linear(config, config.hidden_size, query_rank, config.attention_bias)
            self.query_norm = norm(config, query_rank)
        self.query = linear(config, query_rank or config.hidden_size, query_width)
        self.compress = linear(config, config.hidden_size, self.rank + self.rotary_width, config.attention_bias)
        self.latent_norm = norm(config, self.rank)
        self.expand = linear(config, self.rank, 2 * self.heads * self.width)
        self.output = linear(config, self.heads * self.width, config.hidden_size)
        # Its own, because only a part of each head turns; whatever else tells places is not used here.
        self.rotary = Rope(config)
        self.rotary.width = self.rotary_width

    def forward(self, hidden: Tensor, run: Run, slot: int) -> Tensor:
        queries = hidden
        if self.compress_query is not None and self.query_norm is not None:
            queries = self.query_norm(self.compress_query(hidden))
        query = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        latent, turned = self.compress(hidden)[:, None].split([self.rank, self.rotary_width], -1)
        latent, turned = self.latent_norm(latent), self.rotary.rotate(turned, run.positions)
        still, turning = query.split([self.width, self.rotary_width], -1)
        turning = self.rotary.rotate(turning, run.positions)
        state = run.state(slot)
        if state is not None:
            latent, turned = state.update(latent, turned)
        one_token = hidden.shape[1] == 1 and latent.shape[2] > 1
        attention = self._absorbed if one_token and _plain(self.expand) else self._expanded
        return self.output(attention(still, turning, latent, turned).transpose(1, 2).flatten(2))

    def _expanded(self, still: Tensor, turning: Tensor, latent: Tensor, turned: Tensor) -> Tensor:
        """Attention over keys and values made from all latents."""
        import torch

        both = self.expand(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = both.chunk(2, -1)
        key = torch.cat([key, turned.expand(-1, self.heads, -1, -1)], -1)
        query = torch.cat([still, turning], -1)
        return attend(query, key, value, backend=str(self.config._attn_implementation))

    def _absorbed(self, still: Tensor, turning: Tensor, latent: Tensor, turned: Tensor) -> Tensor:
        """The same for one query, over the latents themselves."""
        import torch

        of_keys, of_values = self.expand.weight.unflatten(0, (self.heads, 2, self.width)).unbind(1)
        scores = (still @ of_keys) @ latent.transpose(2, 3) + turning @ turned.transpose(2, 3)
        scores = scores / math.sqrt(self.width + self.rotary_width)
        gathered = scores.softmax(-1, dtype=torch.float32).to(latent.dtype) @ latent
        return gathered @ of_values.transpose(1, 2)

    def mixing(self, first: float, last: float) -> float:
        """Over expanded keys and values, which is the least; over latents a token's attention is wider."""
        return self.heads * (2.0 * self.width + self.rotary_width) * (first + last) / 2

    def held_bytes(self, tokens: int, element_bytes: int) -> float:
        return float(self.rank + self.rotary_width) * tokens * element_bytes


def _plain(layer: Any) -> bool:
    """Whether a layer's weight is an ordinary matrix, which an adapted or a quantized layer's is not."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


PART: Any = Latent
