"""Batches are windows of the text; the loss is bits per byte, with a cache or without."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.workloads.batches import bits_per_byte, bits_per_byte_through_cache, held_out_windows, random_batch


def text(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def tokens_of(rows: int, length: int) -> torch.Tensor:
    return torch.tensor(list(text(rows * length))).view(rows, length)


class Guesses(torch.nn.Module):
    """Gives every next byte the same probability, but the text's own `favourite`, which gets `weight` times more."""

    def __init__(self, weight: float = 1.0, favourite: int = 0) -> None:
        super().__init__()
        logits = torch.zeros(256)
        logits[favourite] = math.log(weight)
        self.logits = torch.nn.Parameter(logits)

    def forward(self, input_ids: Any, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 256))


@given(st.integers(2, 400), st.integers(1, 5), st.integers(0, 2**31))
def test_a_batch_holds_windows_of_the_text(length: int, size: int, seed: int):
    source = text(500)
    batch = random_batch(source, size, length, torch.Generator().manual_seed(seed))
    assert batch.shape == (size, length)
    assert all(bytes(row) in source for row in batch.tolist())
    again = random_batch(source, size, length, torch.Generator().manual_seed(seed))
    assert torch.equal(batch, again)


@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_text_too_short_for_a_batch_is_refused(size: int):
    with pytest.raises(ValueError, match="too few"):
        random_batch(text(size), 1, 10, torch.Generator())


@given(st.integers(20, 250), st.integers(1, 40), st.integers(2, 20))
def test_held_out_windows_are_the_same_for_everyone_and_do_not_overlap(size: int, count: int, length: int):
    source = bytes(range(size))
    windows = held_out_windows(source, count, length)
    assert torch.equal(windows, held_out_windows(source, count, length))
    assert windows.shape == (max(1, min(count, size // length)), length)
    assert all(bytes(row) in source for row in windows.tolist())
    starts = windows[:, 0].tolist()
    assert all(after - before >= length for before, after in zip(starts, starts[1:], strict=False))


def test_a_model_that_knows_nothing_needs_eight_bits_a_byte():
    mean, error = bits_per_byte(Guesses(), tokens_of(10, 32), "cpu")
    assert mean == pytest.approx(8.0, abs=1e-5)
    assert error == pytest.approx(0.0, abs=1e-6)


@given(st.floats(1.5, 1000), st.integers(0, 255))
def test_bits_are_the_negative_logarithm_of_the_probability(weight: float, favourite: int):
    tokens = torch.full((4, 16), favourite)
    mean, _ = bits_per_byte(Guesses(weight, favourite), tokens, "cpu")
    assert mean == pytest.approx(-math.log2(weight / (255 + weight)), rel=1e-4, abs=1e-5)


def test_the_standard_error_is_that_of_windows():
    weight = 8.0
    tokens = torch.stack([torch.full((16,), number) for number in (0, 0, 1, 1, 1)])
    mean, error = bits_per_byte(Guesses(weight, 0), tokens, "cpu", batch_size=2)
    hit, miss = -math.log2(weight / (255 + weight)), -math.log2(1 / (255 + weight))
    each = torch.tensor([hit, hit, miss, miss, miss])
    assert mean == pytest.approx(each.mean().item(), rel=1e-5)
    assert error == pytest.approx(each.std().item() / math.sqrt(5), rel=1e-4)


def test_a_model_is_left_in_its_mode():
    for training in (True, False):
        model = Guesses().train(training)
        bits_per_byte(model, tokens_of(2, 32), "cpu")
        assert model.training == training


def test_through_a_plain_cache_the_loss_is_that_of_the_second_half(context_of: Any):
    from transformers import DynamicCache

    context = context_of(num_hidden_layers=2)
    model = context.model.load(context)
    windows = tokens_of(5, 64)
    found, _ = bits_per_byte_through_cache(model, windows, "cpu", lambda tokens: DynamicCache(config=model.config), 2)
    with torch.no_grad():
        logits = model(input_ids=windows).logits[:, 32:-1]
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 256), windows[:, 33:].reshape(-1)).item()
    assert found == pytest.approx(expected / math.log(2), rel=1e-4)
