"""Causal Linformer against full attention and against itself written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from harness.decoder.attention import attend
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.linformer import Linformer
from harness.decoder.parts import Run
from harness.decoder.positions.alibi import Alibi
from harness.decoder.positions.rope import Rope
from harness.run.flops import cost_of
from harness.run.tensors import reachable_bytes
from harness.techniques.attention.linformer import Linformer as Technique


def mixer_of(block: int, slots: int, groups: int = 4) -> Any:
    torch.manual_seed(0)
    config = DecoderConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=groups)
    config._attn_implementation = "sdpa"
    return Linformer(config, 0, Rope(config), block, slots)


def all_of(tokens: int) -> Run:
    return Run(0, torch.arange(tokens)[None])


def written_out(mixer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """One query at a time over the slots of blocks before its own, and the positions of its own up to itself."""
    query, key, value = mixer.projected(hidden, all_of(hidden.shape[1]))
    rows = []
    for place in range(hidden.shape[1]):
        start = place // mixer.block * mixer.block
        blocks = range(0, start, mixer.block)
        keys = [mixer.project.key @ key[:, :, at : at + mixer.block] for at in blocks]
        values = [mixer.project.value @ value[:, :, at : at + mixer.block] for at in blocks]
        seen = (
            torch.cat([*keys, key[:, :, start : place + 1]], 2),
            torch.cat([*values, value[:, :, start : place + 1]], 2),
        )
        rows.append(attend(query[:, :, place : place + 1], *seen))
    return mixer.joined(torch.cat(rows, 2))


@settings(max_examples=40)
@given(
    block=st.integers(1, 9),
    slots=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 4]),
    parts=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_every_way_to_compute_it_is_the_one_written_out(block: int, slots: int, groups: int, parts: list[int]):
    mixer, tokens, cache = mixer_of(block, slots, groups), sum(parts), DynamicCache()
    hidden = torch.randn(2, tokens, 32)
    with torch.no_grad():
        expected = written_out(mixer, hidden)
        assert torch.allclose(mixer(hidden, all_of(tokens), 0), expected, atol=1e-5)
        found, first = [], 0
        for part in parts:
            run = Run(first, torch.arange(first, first + part)[None], cache)
            found.append(mixer(hidden[:, first : first + part], run, 0))
            first += part
    assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)
    assert reachable_bytes(cache) == 2 * mixer.held_bytes(tokens, 4)


def test_projecting_a_block_to_itself_is_full_attention():
    mixer, hidden = mixer_of(8, 8), torch.randn(2, 45, 32)
    with torch.no_grad():
        mixer.project.key.copy_(torch.eye(8))
        mixer.project.value.copy_(torch.eye(8))
        full = mixer.joined(attend(*mixer.projected(hidden, all_of(45))))
        assert torch.allclose(mixer(hidden, all_of(45), 0), full, atol=1e-5)


@given(first=st.integers(1, 60), more=st.integers(0, 60), block=st.integers(1, 20), slots=st.integers(1, 5))
def test_the_cost_is_that_of_what_is_seen(first: int, more: int, block: int, slots: int):
    contexts = range(first, first + more + 1)
    seen = sum((place - 1) % block + 1 + (place - 1) // block * slots for place in contexts) / len(contexts)
    assert math.isclose(mixer_of(block, slots).mixing(first, first + more), 2 * 32 * seen, rel_tol=1e-9)


def test_projecting_is_counted(context_of: Any):
    few, more = (
        cost_of(context_of(Technique(16, slots)).model.empty((Technique(16, slots),))).active_matmul_weights
        for slots in (4, 5)
    )
    # A slot more, of keys and of values, in four layers: each number of a position is multiplied once for each slot.
    assert more - few == 2 * 4 * 128


def test_positions_with_biases_are_refused():
    config = DecoderConfig()
    with pytest.raises(ValueError, match="take a position without biases"):
        Linformer(config, 0, Alibi(config))


@pytest.mark.parametrize(("block", "slots"), [(4, 4), (4, 0)])
def test_a_summary_is_shorter_than_its_block(block: int, slots: int):
    with pytest.raises(ValueError, match="fewer than block"):
        Technique(block, slots)
