"""Linear layers with weights of -1, 0 and 1: trained with full-precision ones behind them, stored in two bits each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoder.configuration import DecoderConfig

#: Added to scales, so that a group of zeros or a token of zeros divides by something.
_SMALL = 1e-5


class TernaryLinear(nn.Module):
    """A linear layer that multiplies by ternary weights and learns the full-precision ones behind them.

    A weight becomes scale x round(weight / scale), cut to -1, 0 or 1, where scale is the mean of absolute values over
    the whole matrix (BitNet b1.58, arXiv 2402.17764, equations 1 to 3) or over `group` inputs of an output. With
    `activation_bits` a token's inputs are rounded to that many bits of its largest one (BitNet, arXiv 2310.11453,
    equation 4), and with `normalized` they are RMS-normalized before (SubLN there, equations 9 to 11). Gradients pass
    both roundings as if they were not there.

    Slow here: weights are rounded anew in each pass and the product runs in the model's dtype. A kernel that adds and
    subtracts int8 activations by 2-bit weights, such as BitBLAS's, is what the papers time.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = False,
        *,
        group: int | None = None,
        activation_bits: int | None = None,
        normalized: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if group and inputs % group:
            raise ValueError(f"{inputs} inputs do not divide into groups of {group}; choose another group")
        self.group, self.activation_bits = group, activation_bits
        self.norm = nn.RMSNorm(inputs, eps=epsilon) if normalized else None
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        codes, scales = ternary_of(self.weight.detach(), self.group)
        # What is added is zero: it lets the gradient through and leaves the rounded numbers as they are, bit by bit.
        weight = dense_of(codes, scales) + (self.weight - self.weight.detach())
        return functional.linear(entering(hidden, self.norm, self.activation_bits), weight, self.bias)

    def packed(self) -> PackedTernaryLinear:
        """The same layer for inference alone."""
        return PackedTernaryLinear(self)


class PackedTernaryLinear(nn.Module):
    """A ternary layer's weights, four to a byte, with their scales; it computes what the layer did, bit by bit.

    They are unpacked to the model's dtype in each pass, so this saves memory at rest and no time.
    """

    def __init__(self, layer: TernaryLinear) -> None:
        super().__init__()
        self.inputs, self.activation_bits = layer.weight.shape[1], layer.activation_bits
        codes, scales = ternary_of(layer.weight.detach(), layer.group)
        self.norm, self.bias = layer.norm, layer.bias
        self.codes = nn.Parameter(pack(codes), requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        #: Weights that each parameter stands for in a matrix product, where that is not its number of elements.
        self.weight_counts = {"codes": layer.weight.numel(), "scales": 0}

    def forward(self, hidden: Tensor) -> Tensor:
        weight = dense_of(unpack(self.codes, self.inputs).to(self.scales.dtype), self.scales)
        return functional.linear(entering(hidden, self.norm, self.activation_bits), weight, self.bias)


def ternary_of(weight: Tensor, group: int | None) -> tuple[Tensor, Tensor]:
    """-1, 0 or 1 in the weight's shape and dtype, and scales: (1, 1), or (outputs, groups)."""
    parts = weight.unflatten(1, (-1, group)) if group else weight[None]
    dims = (2,) if group else (1, 2)
    scales = parts.float().abs().mean(dims, keepdim=True).clamp_min(_SMALL)
    codes = (parts.float() / scales).round().clamp(-1, 1).to(weight.dtype).reshape(weight.shape)
    return codes, scales.to(weight.dtype).flatten(1)


def dense_of(codes: Tensor, scales: Tensor) -> Tensor:
    """Weights of codes and scales."""
    return (codes.unflatten(1, (scales.shape[1], -1)) * scales[:, :, None]).flatten(1)


def entering(hidden: Tensor, norm: nn.Module | None, bits: int | None) -> Tensor:
    """What the product sees of a layer's inputs."""
    if norm is not None:
        hidden = norm(hidden)
    if bits is None:
        return hidden
    most = 2 ** (bits - 1) - 1
    wide = hidden.detach().to(torch.promote_types(hidden.dtype, torch.float32))
    step = wide.abs().amax(-1, keepdim=True).clamp_min(_SMALL) / most
    rounded = (wide / step).round().clamp(-most - 1, most) * step
    return rounded.to(hidden.dtype) + (hidden - hidden.detach())


def pack(codes: Tensor) -> Tensor:
    """(outputs, inputs) of -1, 0 and 1 to bytes, (outputs, a quarter as many, rounded up)."""
    places = functional.pad(codes + 1, (0, -codes.shape[1] % 4)).to(torch.uint8).unflatten(1, (-1, 4))
    return (places << _shifts(codes.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, inputs: int) -> Tensor:
    """The inverse of `pack`, as int8."""
    places = packed[..., None] >> _shifts(packed.device) & 3
    return places.flatten(1)[:, :inputs].to(torch.int8) - 1


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(0, 8, 2, dtype=torch.uint8, device=device)


def pack_layers(model: nn.Module) -> nn.Module:
    """Every ternary layer of a model packed, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TernaryLinear):
                setattr(module, name, child.packed())
    return model


def replace_layers(model: nn.Module, group: int) -> nn.Module:
    """Every linear layer of a model but its output layer made ternary with these weights behind it, in place."""
    output = cast("Any", model).get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not output:
                setattr(module, name, _ternary_over(child, group))
    return model


def _ternary_over(layer: nn.Linear, group: int) -> TernaryLinear:
    with torch.device("meta"):
        made: Any = TernaryLinear(layer.in_features, layer.out_features, group=group)
    made.weight, made.bias = layer.weight, layer.bias
    return made.train(layer.training)


def ternary(
    config: DecoderConfig,
    inputs: int,
    outputs: int,
    bias: bool,
    group: int | None = None,
    activation_bits: int | None = 8,
    normalized: bool = True,
) -> Any:
    """A ternary layer of random weights, drawn as torch's linear layers are in a transformers model."""
    layer = TernaryLinear(
        inputs,
        outputs,
        bias,
        group=group,
        activation_bits=activation_bits,
        normalized=normalized,
        epsilon=config.rms_norm_eps,
    )
    nn.init.normal_(layer.weight, std=config.initializer_range)
    return layer


PART: Any = ternary
