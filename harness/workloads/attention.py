"""One layer's token mixer alone, forward and backward: what a mixer costs as sequences grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness.interfaces import Context, Session, Work, Workload
from harness.run.closed_forms import Forms, forms_of
from harness.run.flops import Contexts, cost_of
from harness.run.tensors import storage_bytes
from harness.workloads.batches import random_batch, tokenize

#: What transformers' layers call the module that mixes tokens.
NAMES = (
    "self_attn self_attention attention attn linear_attn mixer mamba temporal_block time_mix mlstm_layer conv "
    "short_conv recurrent_block"
).split()


@dataclass(frozen=True)
class Attention(Workload):
    """The token mixer of one layer on a batch of whole sequences, and with `backward` its gradients.

    The mixer gets what it gets inside its model: the model runs once up to it, on real text, and what it is called with
    is kept and given again at each step. What is made before the layers, such as positions and masks, is therefore not
    timed, and nothing is cached. The gradients are those of the input and of whatever parameters are trained, from a
    random gradient of the output. `layer` counts the model's mixers from 0, for models whose layers differ.
    """

    batch_size: int = 1
    sequence_length: int = 1024
    layer: int = 0
    backward: bool = True

    moments: ClassVar = frozenset({"configure", "load_options", "transform"})

    def __post_init__(self) -> None:
        if min(self.batch_size, self.sequence_length) < 1 or self.layer < 0:
            raise ValueError("batch_size and sequence_length must be at least 1, and layer at least 0")

    def prepare(self, model: Any, context: Context) -> Session:
        """Run the model up to the mixer and keep what it is called with."""
        return _Mixing(self, model, context)


class _Mixing(Session):
    def __init__(self, workload: Attention, model: Any, context: Context) -> None:
        import torch

        self.workload = workload
        self.text = tokenize(context.corpus.load(), context.model.tokenizer())
        self.generator = torch.Generator().manual_seed(context.seed)
        found = mixers_of(model)
        if not workload.layer < len(found):
            names = "; ".join(sorted({type(module).__name__ for module in model.modules()})[:40])
            raise ValueError(f"the model has {len(found)} token mixers, so no layer {workload.layer}; modules: {names}")
        self.mixer, self.mixers = found[workload.layer], len(found)
        size, length = workload.batch_size, workload.sequence_length
        tokens = random_batch(self.text.held_out, size, length, self.generator).to(context.device)
        model.train(workload.backward)
        self.arguments, self.options = captured(model, self.mixer, tokens)
        self.input = self._own_input()
        self.output_gradient: Any = None
        self.cost = cost_of(_alone(self.mixer, model.config, _forms_of_one(model, found, workload.layer)))
        self.dtype = str(self.input.dtype).removeprefix("torch.")
        self.mixed_tokens = 0

    def _own_input(self) -> Any:
        """Make the hidden states, the first tensor of three dimensions, a leaf that takes a gradient."""
        named = {**dict(enumerate(self.arguments)), **self.options}
        for place, value in named.items():
            if hasattr(value, "is_floating_point") and value.is_floating_point() and value.ndim == 3:
                own = value.detach().clone().requires_grad_(self.workload.backward)
                if isinstance(place, int):
                    self.arguments = (*self.arguments[:place], own, *self.arguments[place + 1 :])
                else:
                    self.options = {**self.options, place: own}
                return own
        raise ValueError(f"{type(self.mixer).__name__} is called without hidden states of (batch, tokens, width)")

    def before_step(self) -> None:
        self.input.grad = None
        for parameter in self.mixer.parameters():
            parameter.grad = None
        for added in self._added_losses():
            added.clear()

    def step(self) -> None:
        import torch

        if not self.workload.backward:
            with torch.no_grad():
                self.mixer(*self.arguments, **self.options)
        else:
            output = self.mixer(*self.arguments, **self.options)
            output = output if isinstance(output, torch.Tensor) else output[0]
            if self.output_gradient is None:
                # Numbers of their own everywhere: the gradient of a sum is one number repeated without memory behind.
                self.output_gradient = torch.randn_like(output)
            losses = [loss for added in self._added_losses() for loss in added]
            torch.autograd.backward([output, *losses], [self.output_gradient, *map(torch.ones_like, losses)])
        self.mixed_tokens += self.workload.batch_size * self.workload.sequence_length

    def _added_losses(self) -> Iterator[list[Any]]:
        """What a mixer adds to its model's loss collects in one of its arguments (`harness.decoder.parts.Run`)."""
        for value in (*self.arguments, *self.options.values()):
            losses = getattr(value, "losses", None)
            if isinstance(losses, list):
                yield losses

    def work(self) -> Work:
        length = self.workload.sequence_length
        return Work(
            samples=self.workload.batch_size,
            prompt_tokens=self.workload.batch_size * length,
            model_flops=self._flops((1, length)),
            dense_model_flops=self._flops((length, length)),
            dtype=self.dtype,
        )

    def _flops(self, contexts: Contexts) -> float | None:
        tokens = self.workload.batch_size * self.workload.sequence_length
        forward, backward = self.cost.forward_flops(tokens, contexts), self.cost.backward_flops(tokens, contexts)
        if forward is None or backward is None:
            return None
        return forward + backward if self.workload.backward else forward

    def counted(self) -> Mapping[str, int]:
        return {"prompt_tokens": self.mixed_tokens}

    def held_bytes(self) -> Mapping[str, int]:
        gradients = (parameter.grad for parameter in self.mixer.parameters() if parameter.grad is not None)
        return {"gradient_bytes": storage_bytes(gradients)} if self.workload.backward else {}

    def facts(self) -> Mapping[str, Any]:
        return {
            **self.text.facts,
            "mixer": type(self.mixer).__name__,
            "mixer_layer": f"{self.workload.layer} of {self.mixers}",
            "mixer_parameters": sum(parameter.numel() for parameter in self.mixer.parameters()),
            "quality_basis": "none: one layer predicts nothing",
        }


def mixers_of(model: Any) -> list[Any]:
    """The token mixers of a model from its first layer on, those inside another mixer left out.

    A mixer of `harness.decoder` is known by its closed form, one of transformers by its place in the layer.
    """
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and (_has_form(module) or path.rpartition(".")[2] in NAMES):
            found[path] = module
    return list(found.values())


def captured(model: Any, mixer: Any, tokens: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `model` calls `mixer` with for `tokens`; nothing behind the mixer runs."""
    import torch

    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        caught.append((arguments, options))
        raise _Reached

    handle = mixer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
    except _Reached:
        return caught[0]
    finally:
        handle.remove()
    raise ValueError(f"a forward pass of {type(model).__name__} never calls its {type(mixer).__name__}")


class _Reached(Exception):
    """The forward pass has come to the mixer."""


def _alone(mixer: Any, config: Any, forms: Forms | None) -> Any:
    """A model of one mixer and nothing else, for `cost_of` to read."""
    import torch

    model: Any = torch.nn.Module()
    model.mixer, model.config = mixer, config
    model.closed_forms, model.get_output_embeddings = lambda: forms, lambda: None
    return model


def _has_form(module: Any) -> bool:
    return callable(getattr(module, "mixing", None)) and callable(getattr(module, "held_bytes", None))


def _forms_of_one(model: Any, mixers: list[Any], layer: int) -> Forms | None:
    """The mixer's own closed forms, else the model's shared out where its layers are all of one kind, else None."""
    mixer = mixers[layer]
    if _has_form(mixer):
        return Forms(mixer.mixing, mixer.held_bytes, mixer.read_bytes)
    whole = forms_of(model)
    classes, kinds = {type(item) for item in mixers}, set(getattr(model.config, "layer_types", None) or ())
    alike = len(classes) == 1 and len(kinds) <= 1 and len(mixers) == getattr(model.config, "num_hidden_layers", None)
    if whole is None or not alike:
        return None
    return replace(whole, mixing=lambda first, last: whole.mixing(first, last) / len(mixers))
