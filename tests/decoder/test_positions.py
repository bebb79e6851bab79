"""How a token's place is told, against transformers' own and against attention written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.t5.modeling_t5 import T5Attention

from harness.decoder.mixers.full import Full
from harness.decoder.mixers.window import Window
from harness.decoder.parts import Position
from harness.decoder.positions.alibi import slopes_of
from harness.decoder.positions.relative import bucket_of
from harness.decoder.positions.sinusoidal import sinusoids
from harness.techniques.positions.alibi import Alibi
from harness.techniques.positions.learned import Learned
from harness.techniques.positions.nope import NopeRope, NoPositions
from harness.techniques.positions.relative import Relative
from harness.techniques.positions.rotary import Rotary
from harness.techniques.positions.sinusoidal import Sinusoidal

Contexts = Callable[..., Any]


def built(context_of: Contexts, technique: Any, **architecture: Any) -> Any:
    context = context_of(technique, **architecture)
    assert technique.skip_reason(context) is None
    return context.model.load(context)


def written_out(mixer: Any, hidden: torch.Tensor, score: Callable[[int, int, int], Any]) -> torch.Tensor:
    """One mixer's output, one query at a time: `score(head, query, key)` is added, without rotation."""
    tokens = hidden.shape[1]
    query, key, value = (
        part(hidden)[0].view(tokens, -1, mixer.width) for part in (mixer.query, mixer.key, mixer.value)
    )
    rows = []
    for place in range(tokens):
        heads = []
        for head in range(mixer.heads):
            group = head * mixer.groups // mixer.heads
            scores = key[: place + 1, group] @ query[place, head] / mixer.width**0.5
            scores = scores + torch.stack([torch.as_tensor(score(head, place, back)) for back in range(place + 1)])
            heads.append(scores.softmax(0) @ value[: place + 1, group])
        rows.append(torch.cat(heads))
    return mixer.output(torch.stack(rows))[None]


def mixed(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    from harness.decoder.parts import Run

    return model.stack.blocks[0].mixer(hidden, Run(0, torch.arange(hidden.shape[1])[None]), 0)


@given(heads=st.integers(1, 40))
def test_slopes_are_those_of_bloom(heads: int):
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert torch.allclose(slopes_of(heads, theirs.device), theirs)


def test_scores_fall_with_the_distance(context_of: Contexts):
    model, hidden = built(context_of, Alibi(), num_key_value_heads=2), torch.randn(1, 13, 128)
    slopes = [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    with torch.no_grad():
        expected = written_out(
            model.stack.blocks[0].mixer, hidden, lambda head, query, key: slopes[head] * (key - query)
        )
        assert torch.allclose(mixed(model, hidden), expected, atol=1e-5)


@given(half=st.integers(1, 32), further=st.integers(1, 300))
def test_buckets_are_those_of_t5(half: int, further: int):
    buckets, farthest = 2 * half, half + further
    distances = torch.arange(3 * farthest)
    theirs = T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=buckets, max_distance=farthest
    )
    ours = bucket_of(distances.clamp(max=farthest), buckets, farthest)
    assert torch.equal(ours, theirs)


def test_biases_by_distance_are_added_and_shared_by_layers(context_of: Contexts):
    model, hidden = built(context_of, Relative(buckets=4, farthest=6)), torch.randn(1, 11, 128)
    plain = built(context_of, Rotary())
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters()) == 4 * 4
    biases = model.positions[0].biases.weight.detach().normal_()
    # Distances 0 and 1 have a bucket each; the other two meet at the root of 2 x 6.
    bucket = [0, 1, 2, 2, *[3] * 7]
    with torch.no_grad():
        expected = written_out(
            model.stack.blocks[0].mixer, hidden, lambda head, query, key: biases[bucket[query - key], head]
        )
        assert torch.allclose(mixed(model, hidden), expected, atol=1e-5)


def test_sinusoids_are_those_of_the_transformer(context_of: Contexts):
    theirs = torch.empty(90, 128)
    create_sinusoidal_embeddings(90, 128, theirs)
    assert torch.allclose(sinusoids(torch.arange(90)[None], 128)[0], theirs, atol=1e-4)
    model, ids = built(context_of, Sinusoidal()), torch.randint(0, 256, (2, 7))
    with torch.no_grad():
        embedded = model.embeddings(ids)
        added = model.positions[0].embed(embedded, torch.arange(30, 37)[None])
    assert torch.allclose(added, embedded * 128**0.5 + theirs[30:37], atol=1e-4)


def test_a_learned_place_is_added_and_there_is_none_beyond(context_of: Contexts):
    model = built(context_of, Learned(), max_position_embeddings=24)
    ids = torch.randint(0, 256, (1, 20))
    greedy: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    assert model.generate(ids, max_new_tokens=5, **greedy).shape == (1, 25)  # the last one is not read
    with pytest.raises(ValueError, match="25 tokens, and positions for 24: raise max_position_embeddings"):
        model.generate(ids, max_new_tokens=6, **greedy)
    with torch.no_grad():
        before = model(ids).logits
        model.positions[0].vectors.weight[11] += 1.0
        after = model(ids).logits
    assert torch.equal(before[:, :11], after[:, :11])
    assert not torch.allclose(before[:, 11], after[:, 11], atol=1e-3)


def test_without_positions_one_layer_sees_a_bag_of_tokens(context_of: Contexts):
    ids = torch.randint(0, 256, (1, 12))
    shuffled = torch.cat([ids[:, torch.randperm(11)], ids[:, 11:]], 1)
    for technique, same in ((NoPositions(), True), (Rotary(), False), (Alibi(), False), (Relative(), False)):
        model = built(context_of, technique, num_hidden_layers=1, initializer_range=0.3)
        with torch.no_grad():
            found = torch.allclose(model(ids).logits[:, -1], model(shuffled).logits[:, -1], atol=1e-4)
        assert found == same, technique


def test_the_mix_sees_all_without_positions_in_one_layer_of_four(context_of: Contexts):
    model = built(context_of, NopeRope(window=5), num_hidden_layers=8)
    mixers = [block.mixer for block in model.stack.blocks]
    assert [type(mixer) for mixer in mixers] == 2 * [Full, Window, Window, Window]
    rotates = [type(mixer.position).rotate is not Position.rotate for mixer in mixers]
    assert rotates == 2 * [False, True, True, True]
    assert {mixer.window for mixer in mixers if type(mixer) is Window} == {5}
    held = model.closed_forms().held_bytes(70, 4)
    assert held == (2 * 70 + 6 * 4) * 2 * 128 * 4


def test_another_base_of_the_rotation_is_another_model(context_of: Contexts):
    ids = torch.randint(0, 256, (1, 30))
    own, same, other = (built(context_of, Rotary(theta)) for theta in (None, 10000.0, 100.0))
    with torch.no_grad():
        assert torch.equal(own(ids).logits, same(ids).logits)
        assert not torch.allclose(own(ids).logits, other(ids).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rotary(1.0), "theta must be above 1"),
        (lambda: Relative(buckets=5), "buckets must be an even number"),
        (lambda: Relative(farthest=16), "farthest must lie beyond"),
        (lambda: NopeRope(period=1), "period must be at least 2"),
        (lambda: NopeRope(window=1), "window must be at least 2"),
    ],
)
def test_impossible_options_say_what_to_do(make: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        make()
