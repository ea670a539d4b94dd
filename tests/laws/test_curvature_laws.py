"""What every curvature operator and eigenvalue obeys, whatever the model."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrscope import Objective, sharpness
from lrscope.curvature import DifferenceHessian, ExactHessian

DOUBLE = torch.float64
seeds = st.integers(0, 2**31 - 1)
LAW = settings(max_examples=15, deadline=None)


def objective_of(seed, sizes=(32,)):
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    X = torch.randn(32, 3, generator=generator, dtype=DOUBLE)
    y = torch.randint(0, 3, (32,), generator=generator)
    batches = list(zip(X.split(list(sizes)), y.split(list(sizes)), strict=True))
    return Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches)


def vectors(objective, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, objective.size, dtype=DOUBLE, generator=generator)


@pytest.mark.parametrize("operator", [ExactHessian, DifferenceHessian])
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(-3, 3))
@LAW
def test_products_are_linear(operator, seed, a, b):
    objective = objective_of(seed)
    H = operator(objective, objective.point())
    x, y = vectors(objective, seed)
    torch.testing.assert_close(H @ (a * x + b * y), a * (H @ x) + b * (H @ y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", [ExactHessian, DifferenceHessian])
@given(seed=seeds)
@LAW
def test_products_are_symmetric(operator, seed):
    objective = objective_of(seed)
    H = operator(objective, objective.point())
    x, y = vectors(objective, seed)
    torch.testing.assert_close(x @ (H @ y), y @ (H @ x), rtol=1e-6, atol=1e-6)


@given(seed=seeds, cut=st.integers(1, 31))
@LAW
def test_splitting_the_data_changes_nothing(seed, cut):
    whole, parts = objective_of(seed), objective_of(seed, (cut, 32 - cut))
    assert sharpness(parts, tol=1e-6).value == pytest.approx(sharpness(whole, tol=1e-6).value, rel=1e-9)


def test_splitting_into_30_and_2_changes_nothing():
    whole, parts = objective_of(1), objective_of(1, (30, 2))
    assert sharpness(parts, tol=1e-8).value == pytest.approx(sharpness(whole, tol=1e-8).value, rel=1e-10)


@given(seed=seeds, scale=st.floats(0.1, 10))
@LAW
def test_scaling_loss_and_preconditioner_by_the_same_number_changes_nothing(seed, scale):
    objective = objective_of(seed)
    loss_fn = objective.loss_fn
    scaled = Objective(objective.model, lambda m, b: scale * loss_fn(m, b), objective.batches)
    P = torch.full((objective.size,), scale, dtype=DOUBLE)
    found = sharpness(scaled, preconditioner=P, tol=1e-6).value
    assert found == pytest.approx(sharpness(objective, tol=1e-6).value, rel=1e-6)


@given(seed=seeds, tol=st.sampled_from([0.3, 1e-2, 1e-4]))
@LAW
def test_a_looser_answer_never_exceeds_the_true_one_and_an_eigenvalue_is_within_the_residual(seed, tol):
    objective = objective_of(seed)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(objective, objective.point()))
    result = sharpness(objective, tol=tol)
    assert result.value <= float(values[-1]) * (1 + 1e-10)
    assert float((values - result.value).abs().min()) <= result.residual * (1 + 1e-6) + 1e-10
