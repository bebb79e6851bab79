"""The decoder itself, as a transformers model: it loads, generates and caches as the others do."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from harness.decoder.configuration import MODEL_TYPE, DecoderConfig
from harness.decoder.parts import SEEN, Position, Run, make, norm
from harness.run.closed_forms import Forms


class DecoderForCausalLM(PreTrainedModel, GenerationMixin):
    """Embeddings, a stack of blocks, a norm, and the output layer. Sequences are not padded: there is no mask."""

    config_class = DecoderConfig
    base_model_prefix = ""
    _no_split_modules: ClassVar = ["Block"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _tied_weights_keys: ClassVar = {"lm_head.weight": "embeddings.weight"}

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        entries = config.position if isinstance(config.position, list) else [config.position]
        self.positions = nn.ModuleList(make("position", config, layer=layer) for layer in range(len(entries)))
        self.stack = make("stack", config, self.positions)
        self.norm = norm(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.objective = make("objective", config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """(batch, tokens) ids to logits; with `labels` the objective's loss too, which uses no cache."""
        if labels is not None:
            logits, loss = self.objective(self, input_ids, labels)
            return CausalLMOutputWithPast(loss=loss, logits=logits)
        if use_cache and past_key_values is None:
            from transformers import DynamicCache

            past_key_values = DynamicCache()
        hidden, _run = self.hidden(input_ids, past_key_values)
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def hidden(self, input_ids: Tensor, cache: Any = None) -> tuple[Tensor, Run]:
        """Normalized hidden states of the last layer, and the pass that made them."""
        first = 0 if cache is None else getattr(cache, SEEN, 0)
        tokens = input_ids.shape[1]
        positions = torch.arange(first, first + tokens, device=input_ids.device)[None]
        run = Run(first, positions, cache, self.training)
        hidden = self.embeddings(input_ids)
        for position in cast("list[Position]", list(self.positions)):
            if position.places is not None and first + tokens > position.places:
                raise ValueError(
                    f"{first + tokens} tokens, and positions for {position.places}: raise max_position_embeddings"
                )
            hidden = position.embed(hidden, positions)
        hidden = self.stack(hidden, run)
        if cache is not None:
            setattr(cache, SEEN, first + tokens)
        return self.norm(hidden), run

    def closed_forms(self) -> Forms:
        """Sums over the layers."""
        mixers = self.stack.mixers()

        def mixing(first: float, last: float) -> float:
            return sum(times * mixer.mixing(first, last) for mixer, times in mixers)

        def held(tokens: int, element_bytes: int) -> float:
            return sum(times * mixer.held_bytes(tokens, element_bytes) for mixer, times in mixers)

        def read(tokens: int, element_bytes: int) -> float:
            return sum(times * mixer.read_bytes(tokens, element_bytes) for mixer, times in mixers)

        return Forms(mixing, held, read)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Banks of experts ask the configuration; transformers would look for its own decorator in this file."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def register() -> None:
    """Make transformers' auto classes know the decoder."""
    AutoConfig.register(MODEL_TYPE, DecoderConfig, exist_ok=True)
    AutoModelForCausalLM.register(DecoderConfig, DecoderForCausalLM, exist_ok=True)
