"""Trainable sparse attention against naive references, token by token, and closed forms against brute sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from harness.decoder import selection
from harness.decoder.configuration import DecoderConfig
from harness.decoder.mixers.nsa import NSA
from harness.decoder.parts import Mixer, Run, make
from harness.decoder.sums import sum_of_chosen, sum_of_minima, sum_of_quotients, sum_of_windows
from harness.decoder.window import attend_window
from harness.models.architecture import build
from harness.techniques.attention.sparse import BlockTopK, IndexedTopK, InfLLM, NativeSparse
from harness.techniques.twin import with_part

TINY = yaml.safe_load((Path(__file__).parents[2] / "conf/model/tiny_llama.yaml").read_text())["architecture"]
BATCH, HEADS, GROUPS, WIDTH, HIDDEN = 2, 4, 2, 8, 32
NSA_SIZES: dict[str, Any] = {"kind": "nsa", "length": 8, "stride": 4, "size": 8, "count": 4, "window": 12}
PARTS: dict[str, dict[str, Any]] = {
    "nsa": NSA_SIZES,
    "indexed": {"kind": "indexed", "top_k": 12, "index_heads": 3},
    "block_topk": {"kind": "block_topk", "size": 4, "count": 3},
    "infllm": {
        "kind": "infllm",
        "size": 8,
        "count": 4,
        "length": 4,
        "stride": 2,
        "initial": 1,
        "local": 2,
        "dense_below": 36,
    },
}
SELECTING = [name for name in PARTS if name != "nsa"]


def mixer_of(part: dict[str, Any], attention: str = "sdpa", position: dict[str, Any] | None = None) -> Any:
    """One mixer with weights large enough that scores differ."""
    torch.manual_seed(0)
    config = DecoderConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=WIDTH,
        mixer=part,
        position=position,
    )
    config._attn_implementation = attention
    mixer = make("mixer", config, 0, make("position", config))
    for parameter in mixer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return mixer.eval()


def hidden_of(tokens: int) -> Any:
    return torch.randn(BATCH, tokens, HIDDEN, generator=torch.Generator().manual_seed(3))


def run_of(first: int, tokens: int, cache: Any = None, training: bool = False) -> Run:
    return Run(first, torch.arange(first, first + tokens)[None], cache, training)


def mixed(mixer: Mixer, hidden: Any) -> Any:
    return mixer(hidden, run_of(0, hidden.shape[1]), 0)


@pytest.fixture(params=["masked", "copied", "copied in short runs", "masked in short runs"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways to attend to what is chosen, with all queries at once and with a few."""
    for module in ("sparse_mixer", "mixers.nsa"):
        monkeypatch.setattr(f"harness.decoder.{module}.copying_pays", lambda *_: "copied" in request.param)
    if "short" in request.param:
        monkeypatch.setattr(selection, "SCRATCH_BYTES", 2**16)
    return request.param


# Which tokens a query sees, written once more as the papers say it, with loops.


def blocks_seen(score: Callable[[int], float], t: int, size: int, count: int, initial: int, local: int) -> set[int]:
    """The tokens of the chosen blocks; of equal scores the later block's wins."""
    own = t // size
    forced = [b for b in range(own + 1) if b < initial or own - b < local]
    others = sorted((b for b in range(own + 1) if b not in forced), key=lambda b: (score(b), b), reverse=True)
    chosen = [*forced, *others][:count]
    return {s for b in chosen for s in range(b * size, (b + 1) * size) if s <= t}


def attended(query: Any, key: Any, value: Any, tokens: set[int]) -> Any:
    """Softmax attention of one query to these tokens."""
    places = sorted(tokens)
    scores = key[places] @ query / math.sqrt(len(query))
    return scores.softmax(0) @ value[places]


def seen_by_block_topk(mixer: Any, query: Any, key: Any, hidden: Any) -> Callable[[int, int, int], set[int]]:
    def seen(b: int, g: int, t: int) -> set[int]:
        heads = range(g * HEADS // GROUPS, (g + 1) * HEADS // GROUPS)

        def score(block: int) -> float:
            mean = key[b, g, block * mixer.size : (block + 1) * mixer.size].mean(0)
            return sum(float(query[b, h, t] @ mean) for h in heads)

        return blocks_seen(score, t, mixer.size, mixer.count, 0, 1)

    return seen


def seen_by_infllm(mixer: Any, query: Any, key: Any, hidden: Any) -> Callable[[int, int, int], set[int]]:
    def seen(b: int, g: int, t: int) -> set[int]:
        if t + 1 <= max(36, mixer.count * mixer.size):
            return set(range(t + 1))
        starts = range(0, t + 2 - mixer.length, mixer.stride)
        means = torch.stack([key[b, g, s : s + mixer.length].mean(0) for s in starts])
        heads = range(g * HEADS // GROUPS, (g + 1) * HEADS // GROUPS)
        total = torch.stack([(means @ query[b, h, t] / math.sqrt(WIDTH)).softmax(0) for h in heads]).sum(0)

        def score(block: int) -> float:
            low, high = block * mixer.size, (block + 1) * mixer.size
            return max(float(total[i]) for i, s in enumerate(starts) if s < high and s + mixer.length > low)

        return blocks_seen(score, t, mixer.size, mixer.count, mixer.initial, mixer.local)

    return seen


def seen_by_indexed(mixer: Any, query: Any, key: Any, hidden: Any) -> Callable[[int, int, int], set[int]]:
    places = torch.arange(hidden.shape[1])[None]
    asking = mixer.index_query(hidden).unflatten(-1, (-1, WIDTH)).transpose(1, 2)
    asking = mixer.position.rotate(asking, places)
    asked = mixer.position.rotate(mixer.index_key_norm(mixer.index_key(hidden))[:, None], places)[:, 0]
    weight = mixer.index_weight(hidden)

    def seen(b: int, g: int, t: int) -> set[int]:
        def score(s: int) -> float:
            return sum(float(weight[b, t, j] * (asking[b, j, t] @ asked[b, s]).relu()) for j in range(3))

        return set(sorted(range(t + 1), key=lambda s: (score(s), s), reverse=True)[: mixer.count])

    return seen


SEEN = {"block_topk": seen_by_block_topk, "infllm": seen_by_infllm, "indexed": seen_by_indexed}


@pytest.mark.parametrize("name", SELECTING)
def test_each_query_sees_exactly_what_the_method_says(name: str, way: str):
    mixer, tokens = mixer_of(PARTS[name]), 45
    with torch.no_grad():
        hidden = hidden_of(tokens)
        query, key, value = mixer.projected(hidden, run_of(0, tokens))
        seen = SEEN[name](mixer, query, key, hidden)
        heads = torch.zeros_like(query)
        for b in range(BATCH):
            for h in range(HEADS):
                g = h * GROUPS // HEADS
                for t in range(tokens):
                    heads[b, h, t] = attended(query[b, h, t], key[b, g], value[b, g], seen(b, g, t))
        torch.testing.assert_close(mixed(mixer, hidden), mixer.joined(heads), atol=1e-4, rtol=1e-4)


def naive_nsa(mixer: NSA, hidden: Any) -> Any:
    """Equations 5 and 7 to 12, one query and head at a time; the query's own group and sequence and nothing later."""
    tokens, places = hidden.shape[1], torch.arange(hidden.shape[1])[None]
    query, key, value = mixer.projected(hidden, run_of(0, tokens))
    parts = (mixer.compressed_key, mixer.compressed_value, mixer.window_key, mixer.window_value)
    raw_key, raw_value, window_key, window_value = (
        part(hidden).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for part in parts
    )
    window_key = mixer.position.rotate(window_key, places)
    starts = list(range(0, tokens - mixer.length + 1, mixer.stride))

    def compressed(network: Any, heads: Any) -> Any:
        blocks = [(heads[:, :, s : s + mixer.length] + network.places.weight).flatten(2) for s in starts]
        found = [network.out(torch.nn.functional.silu(network.down(block))) for block in blocks]
        return torch.stack(found, 2)

    short_value = compressed(mixer.compress_values, raw_value)
    last = torch.tensor([[s + mixer.length - 1 for s in starts]])
    short_key = mixer.position.rotate(compressed(mixer.compress_keys, raw_key), last)
    gates = mixer.gates(hidden).sigmoid().unflatten(-1, (3, HEADS))
    out = torch.zeros_like(query)
    for b in range(BATCH):
        for g in range(GROUPS):
            heads = range(g * HEADS // GROUPS, (g + 1) * HEADS // GROUPS)
            for t in range(tokens):
                there = [i for i, s in enumerate(starts) if s + mixer.length <= t + 1]
                chances = {h: (short_key[b, g, there] @ query[b, h, t] / WIDTH**0.5).softmax(0) for h in heads}

                def score(block: int, there: Any = there, chances: Any = chances, heads: Any = heads) -> float:
                    units = range(block * mixer.size, (block + 1) * mixer.size, mixer.stride)
                    shared = [sum(starts[i] <= u < starts[i] + mixer.length for u in units) for i in there]
                    return sum(float(chances[h][n]) * times for h in heads for n, times in enumerate(shared))

                selected = blocks_seen(score, t, mixer.size, mixer.count, 1, 2)
                near = set(range(max(0, t - mixer.window + 1), t + 1))
                for h in heads:
                    branches = (
                        chances[h] @ short_value[b, g, there],
                        attended(query[b, h, t], key[b, g], value[b, g], selected),
                        attended(query[b, h, t], window_key[b, g], window_value[b, g], near),
                    )
                    out[b, h, t] = sum(gates[b, t, n, h] * branch for n, branch in enumerate(branches))
    return mixer.joined(out)


@pytest.mark.parametrize("sizes", [{}, {"length": 4, "stride": 4}, {"stride": 2, "count": 3, "window": 1}])
def test_nsa_is_what_its_equations_say(sizes: dict[str, int], way: str):
    mixer = mixer_of({**NSA_SIZES, **sizes})
    with torch.no_grad():
        hidden = hidden_of(53)
        torch.testing.assert_close(mixed(mixer, hidden), naive_nsa(mixer, hidden), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SELECTING)
def test_with_everything_selected_it_is_full_attention(name: str, attention: str, monkeypatch: pytest.MonkeyPatch):
    """Also where the choice is really made: `whole` is put to 0, so that no query takes the way around it."""
    part = {**PARTS[name], **({"top_k": 50} if name == "indexed" else {"count": 13})}
    mixer, full = mixer_of(part, attention), mixer_of({"kind": "full"}, attention)
    full.load_state_dict({key: value for key, value in mixer.state_dict().items() if "index" not in key})
    hidden = hidden_of(50)
    with torch.no_grad():
        expected = mixed(full, hidden)
        torch.testing.assert_close(mixed(mixer, hidden), expected)
        mixer.whole = 0
        for copies in (True, False):
            monkeypatch.setattr("harness.decoder.sparse_mixer.copying_pays", lambda *_, copies=copies: copies)
            torch.testing.assert_close(mixed(mixer, hidden), expected)


@pytest.mark.parametrize("name", PARTS)
def test_the_ways_agree_in_gradients_too(name: str, monkeypatch: pytest.MonkeyPatch):
    found = []
    for copies, scratch in ((False, 2**27), (True, 2**27), (True, 2**15), (False, 2**15)):
        for module in ("sparse_mixer", "mixers.nsa"):
            monkeypatch.setattr(f"harness.decoder.{module}.copying_pays", lambda *_, copies=copies: copies)
        monkeypatch.setattr(selection, "SCRATCH_BYTES", scratch)
        mixer, run = mixer_of(PARTS[name]).train(), run_of(0, 45, training=True)
        (mixer(hidden_of(45), run, 0).square().sum() + sum(run.losses)).backward()
        found.append([parameter.grad for parameter in mixer.parameters()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("pieces", [[1] * 45, [3, 20, 1, 1, 20], [40, 5]])
def test_pieces_with_a_cache_are_the_whole(name: str, pieces: list[int], way: str):
    mixer, hidden, cache, first, found = mixer_of(PARTS[name]), hidden_of(45), DynamicCache(), 0, []
    with torch.no_grad():
        for piece in pieces:
            found.append(mixer(hidden[:, first : first + piece], run_of(first, piece, cache), 0))
            first += piece
        torch.testing.assert_close(torch.cat(found, 1), mixed(mixer, hidden), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PARTS)
def test_no_sequence_of_a_batch_changes_another(name: str):
    mixer, hidden = mixer_of(PARTS[name]), hidden_of(45)
    with torch.no_grad():
        alone = torch.cat([mixed(mixer, hidden[:1]), mixed(mixer, hidden[1:])])
        torch.testing.assert_close(mixed(mixer, hidden), alone, atol=1e-4, rtol=1e-4)


def test_groups_select_for_themselves():
    picked = selection.best(torch.randn(1, GROUPS, 40, 10), 0, 4, 4, local=1)
    assert (picked.blocks[:, 0, -1].sort().values != picked.blocks[:, 1, -1].sort().values).any()


def test_the_indexer_learns_from_attention_and_shapes_nothing_else():
    mixer, hidden = mixer_of(PARTS["indexed"]).train(), hidden_of(45).requires_grad_()
    run = run_of(0, 45, training=True)
    mixer(hidden, run, 0)
    (loss,) = run.losses
    loss.backward()
    assert hidden.grad is None
    trained = {name for name, parameter in mixer.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in mixer.named_parameters() if name.startswith("index_")}
    optimizer = torch.optim.Adam([p for n, p in mixer.named_parameters() if n.startswith("index_")], lr=0.01)
    before = loss.item()
    assert before > 0
    for _ in range(60):
        run = run_of(0, 45, training=True)
        mixer(hidden.detach(), run, 0)
        optimizer.zero_grad()
        run.losses[0].backward()
        optimizer.step()
    assert run.losses[0].item() < 0.7 * before


def test_the_divergence_is_that_of_the_chosen_tokens():
    mixer, tokens = mixer_of(PARTS["indexed"]).train(), 30
    hidden, run = hidden_of(tokens), run_of(0, tokens, training=True)
    mixer(hidden, run, 0)
    with torch.no_grad():
        query, key, _ = mixer.projected(hidden, run)
        seen = seen_by_indexed(mixer, query, key, hidden)
        index = mixer.scorer(hidden, query, key, run_of(0, tokens), None)(0, tokens)[:, 0]
        total = 0.0
        for b in range(BATCH):
            for t in range(tokens):
                places = sorted(seen(b, 0, t))
                chances = [
                    (key[b, h * GROUPS // HEADS, places] @ query[b, h, t] / WIDTH**0.5).softmax(0) for h in range(HEADS)
                ]
                target, guess = torch.stack(chances).mean(0), index[b, t, places].softmax(0)
                total += float((target * (target / guess).log()).sum())
    assert run.losses[0].item() == pytest.approx(total / (BATCH * tokens), rel=1e-4)


@given(st.integers(1, 9), st.integers(0, 14), st.integers(1, 40))
def test_a_window_in_blocks_is_a_masked_window(window: int, known: int, queries: int):
    query = torch.randn(2, 4, queries, 8)
    key, value = (torch.randn(2, 2, known + queries, 8) for _ in range(2))
    distance = torch.arange(known, known + queries)[:, None] - torch.arange(known + queries)
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(8)
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    expected = scores.softmax(-1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(attend_window(query, key, value, window), expected, atol=1e-5, rtol=1e-4)


@given(st.integers(0, 80), st.integers(1, 9), st.integers(1, 6), st.integers(1, 9))
def test_sums_are_sums(count: int, size: int, blocks: int, stride: int):
    contexts = range(1, count + 1)
    assert sum_of_minima(count, size) == sum(min(c, size) for c in contexts)
    assert sum_of_quotients(count, size) == sum(c // size for c in range(count + 1))
    length = size + stride
    starts = [range(0, c - length + 1, stride) for c in contexts]
    assert sum_of_windows(count, length, stride) == sum(len(found) for found in starts)
    chosen = [blocks_seen(lambda b: b, c - 1, size, blocks, 0, 1) for c in contexts]
    assert sum_of_chosen(count, blocks, size) == sum(len(found) for found in chosen)


@pytest.mark.parametrize("name", PARTS)
def test_the_mean_over_contexts_is_the_mean_of_each(name: str):
    mixer = mixer_of(PARTS[name])
    each = [required(name, context) for context in range(1, 101)]
    for first, last in ((1, 100), (1, 1), (30, 70), (50, 50), (36, 37)):
        assert mixer.mixing(first, last) == pytest.approx(sum(each[first - 1 : last]) / (last - first + 1))
    assert mixer.mixing(51, 50) == pytest.approx(each[50])


def required(name: str, c: int) -> float:
    """Multiply-adds of the last token of a context, counted one key at a time."""
    pair = 2 * HEADS * WIDTH
    if name == "indexed":
        return pair * c if c <= 12 else pair * 12 + 3 * (WIDTH + 1) * c
    if name == "block_topk":
        seen = len(blocks_seen(lambda b: b, c - 1, 4, 3, 0, 1))
        return pair * seen + (GROUPS * WIDTH * ((c - 1) // 4) if c > 12 else 0)
    seen = len(blocks_seen(lambda b: b, c - 1, 8, 4, 1, 2))
    if name == "infllm":
        return pair * c if c <= 36 else pair * seen + HEADS * WIDTH * len(range(0, c - 3, 2))
    return pair * (seen + min(c, 12) + len(range(0, c - 7, 4)))


@pytest.mark.parametrize("name", PARTS)
def test_a_next_token_reads_what_is_seen_and_what_is_scored(name: str):
    mixer, both = mixer_of(PARTS[name]), 2 * GROUPS * WIDTH
    for tokens in range(12, 100):
        own = tokens % (4 if name == "block_topk" else 8)
        read = {
            "indexed": both * 11 + WIDTH * tokens,
            "block_topk": both * (8 + own) + GROUPS * WIDTH * (tokens // 4),
            "infllm": both * min(tokens, 24 + own) + GROUPS * WIDTH * len(range(0, tokens - 3, 2)),
            "nsa": both * (min(tokens, 24 + own) + 11 + len(range(0, tokens - 7, 4))),
        }[name]
        if name == "infllm" and tokens < 36:
            read = both * tokens
        assert mixer.read_bytes(tokens, 2) == 2 * read
        assert mixer.read_bytes(tokens, 2) <= mixer.held_bytes(tokens, 2)


def test_a_decoded_token_copies_where_a_prompt_masks():
    """With the paper's sizes: 16 blocks of 64, 16 heads to a group."""
    assert selection.copying_pays(1, 1024, 8192, 16)
    assert not selection.copying_pays(1, 1024, 2048, 16)
    assert not selection.copying_pays(4096, 1024, 8192, 16)
    assert selection.copying_pays(4096, 1024, 131072, 16)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: NativeSparse(blocks=2), "blocks is 2"),
        (lambda: NativeSparse(stride=3), "do not fit"),
        (lambda: NativeSparse(length=16), "do not fit"),
        (lambda: InfLLM(blocks=2), "always|whatever"),
        (lambda: InfLLM(stride=0), "stride is 0"),
        (lambda: BlockTopK(blocks=0), "blocks is 0"),
        (lambda: IndexedTopK(top_k=0), "top_k is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        wrong()


@pytest.mark.parametrize("name", PARTS)
def test_half_precision_gives_finite_numbers_near_those_of_single(name: str):
    tokens = torch.randint(0, 256, (2, 60), generator=torch.Generator().manual_seed(1))
    losses = []
    for dtype in ("float32", "bfloat16"):
        model = build(with_part(TINY, "mixer", PARTS[name]), {"dtype": dtype, "attn_implementation": "sdpa"}, "cpu", 0)
        loss = model.train()(tokens, labels=tokens).loss
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
