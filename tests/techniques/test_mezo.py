"""Zeroth-order steps against closed forms on a quadratic, where the central difference is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.techniques.zeroth_order.mezo import MeZO, spsa_step

SEEDS = st.integers(0, 2**31)


def problem(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric matrix and a point, in float64."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return matrix @ matrix.T / size, torch.randn(size, generator=generator, dtype=torch.float64)


def direction(x: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def quadratic(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x @ matrix @ x


@given(st.integers(1, 30), SEEDS, SEEDS, st.floats(1e-4, 1e-1), st.floats(1e-4, 1e-1))
def test_a_step_moves_against_the_slope_along_its_direction(
    size: int, made: int, seed: int, epsilon: float, rate: float
):
    matrix, start = problem(size, made)
    x = start.clone()
    loss = spsa_step([x], lambda: quadratic(matrix, x), epsilon, rate, seed)
    z = direction(start, seed)
    slope = z @ matrix @ start
    torch.testing.assert_close(x, start - rate * slope * z, rtol=1e-8, atol=1e-10)
    # The mean of both losses is the loss itself and the curvature along the direction.
    torch.testing.assert_close(loss, quadratic(matrix, start) + 0.5 * epsilon**2 * z @ matrix @ z)


@given(st.integers(1, 30), SEEDS, SEEDS)
def test_a_learning_rate_of_zero_restores_the_parameters(size: int, made: int, seed: int):
    matrix, start = problem(size, made)
    x = start.clone()
    spsa_step([x], lambda: quadratic(matrix, x), 1e-3, 0.0, seed)
    torch.testing.assert_close(x, start, rtol=0, atol=1e-14)


@given(st.integers(2, 20), SEEDS, SEEDS)
def test_several_parameters_share_one_direction(size: int, made: int, seed: int):
    matrix, start = problem(size, made)
    cut = size // 2
    first, second = start[:cut].clone(), start[cut:].clone()
    spsa_step([first, second], lambda: quadratic(matrix, torch.cat([first, second])), 1e-3, 0.01, seed)
    generator = torch.Generator().manual_seed(seed)
    z = torch.cat([torch.randn(part.shape, generator=generator, dtype=start.dtype) for part in (first, second)])
    torch.testing.assert_close(
        torch.cat([first, second]), start - 0.01 * (z @ matrix @ start) * z, rtol=1e-7, atol=1e-9
    )


def test_the_mean_step_over_many_seeds_is_the_gradients():
    matrix, start = problem(8, 0)
    steps = []
    for seed in range(4000):
        x = start.clone()
        spsa_step([x], lambda x=x: quadratic(matrix, x), 1e-3, 1.0, seed)
        steps.append(start - x)
    found, gradient = torch.stack(steps), matrix @ start
    error = found.std(0) / len(steps) ** 0.5
    assert ((found.mean(0) - gradient).abs() < 5 * error).all()
    assert torch.nn.functional.cosine_similarity(found.mean(0), gradient, dim=0) > 0.99


def test_steps_in_one_direction_and_back_are_the_same_seed():
    matrix, start = problem(5, 1)
    results = []
    for seed in (3, 3, 4):
        x = start.clone()
        spsa_step([x], lambda x=x: quadratic(matrix, x), 1e-3, 0.1, seed)
        results.append(x)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_many_steps_descend():
    matrix, x = problem(6, 2)
    before = quadratic(matrix, x)
    for seed in range(300):
        spsa_step([x], lambda: quadratic(matrix, x), 1e-3, 0.02, seed)
    assert quadratic(matrix, x) < before / 4


def test_no_gradient_is_ever_allocated():
    layer = torch.nn.Linear(4, 4)
    seen = []

    def loss() -> torch.Tensor:
        with torch.no_grad():
            seen.append(torch.is_grad_enabled())
            return layer(torch.ones(2, 4)).pow(2).mean()

    spsa_step(list(layer.parameters()), loss, 1e-3, 1e-2, 0)
    assert seen == [False, False], "two forward passes, nothing recorded"
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_training_step_leaves_frozen_parameters_alone():
    class Output:
        def __init__(self, loss: torch.Tensor) -> None:
            self.loss = loss

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.frozen = torch.nn.Linear(3, 1), torch.nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, use_cache: bool) -> Output:
            return Output(self.free(self.frozen(input_ids)).pow(2).mean())

    model = Model()
    frozen, free = model.frozen.weight.clone(), model.free.weight.clone()
    loss = MeZO(learning_rate_ratio=1.0).training_step(model, torch.ones(2, 3), 0.1, 0)
    assert torch.equal(model.frozen.weight, frozen)
    assert not torch.equal(model.free.weight, free)
    assert not loss.requires_grad


def test_the_work_of_a_step_is_two_forward_passes():
    assert MeZO().training_flops(3.0, 6.0) == 6.0


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(ValueError, match="epsilon"):
        MeZO(epsilon=0.0)
