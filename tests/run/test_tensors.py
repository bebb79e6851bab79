"""Bytes that tensors really hold: each storage once, whatever points into it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.run.tensors import live_bytes, model_bytes, reachable_bytes, storage_bytes

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.float64])


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), DTYPES), max_size=6))
def test_separate_tensors_add_up(shapes: list[tuple[int, int, torch.dtype]]):
    tensors = [torch.zeros(rows, columns, dtype=dtype) for rows, columns, dtype in shapes]
    assert storage_bytes(tensors) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_a_storage_counts_once_however_many_views_it_has(rows: int, columns: int, views: int):
    tensor = torch.zeros(rows, columns)
    several = [tensor, tensor.t(), tensor[:1], tensor.view(-1), tensor.detach()] * views
    assert storage_bytes(several) == rows * columns * 4


def test_a_small_view_keeps_its_whole_storage_alive():
    assert storage_bytes([torch.zeros(1000)[:1]]) == 4000


def test_an_expanded_tensor_holds_only_what_it_stores():
    assert storage_bytes([torch.zeros(10, 1).expand(10, 1000)]) == 40


def test_a_tensor_that_a_transform_left_behind_counts_by_what_it_wraps():
    kept: list[torch.Tensor] = []
    torch.vmap(lambda row: kept.append(row) or row)(torch.zeros(6, 5))
    assert storage_bytes(kept) == 6 * 5 * 4


def test_tied_weights_count_once():
    model = nn.ModuleDict({"a": nn.Embedding(16, 8), "b": nn.Linear(8, 16, bias=False)})
    model["b"].weight = model["a"].weight  # type: ignore[union-attr]
    assert model_bytes(model) == 16 * 8 * 4


def test_buffers_count_as_the_models():
    model = nn.BatchNorm1d(10)
    assert model_bytes(model) == 4 * 10 * 4 + 8


def test_only_the_device_asked_for_is_counted():
    assert storage_bytes([torch.zeros(10)], "cuda") == 0
    assert storage_bytes([torch.zeros(10)], "cpu") == 40


def test_a_packed_weight_counts_its_scales():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.Sequential(nn.Linear(256, 128, bias=False))
    quantize_(model, Int8WeightOnlyConfig())
    assert 256 * 128 < model_bytes(model) <= 256 * 128 + 128 * 8 + 64


def test_what_an_optimizer_holds_is_found():
    layer = nn.Linear(30, 20, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.zeros(1, 30)).sum().backward()
    optimizer.step()
    step = 4
    assert reachable_bytes(optimizer.state) == 30 * 20 * 4 * 3 + step, "the parameter, two moments, a counter"


def test_what_hides_in_containers_and_attributes_is_found_once():
    tensor = torch.zeros(100)
    root = SimpleNamespace(a=[tensor, (tensor[:3],)], b={"c": SimpleNamespace(d=torch.zeros(10))})
    root.again = root
    assert reachable_bytes(root) == 440


def test_live_bytes_see_what_lives_and_not_what_is_gone():
    before = live_bytes("cpu")
    tensor = torch.zeros(250_000)
    assert live_bytes("cpu") - before == 1_000_000
    view = tensor[10:]
    assert live_bytes("cpu") - before == 1_000_000
    del tensor
    assert live_bytes("cpu") - before == 1_000_000
    del view
    assert live_bytes("cpu") == before


@pytest.mark.parametrize("content", [None, 3, "text", [], {}, object()])
def test_what_holds_no_tensor_holds_no_bytes(content: object):
    assert reachable_bytes(content) == 0
