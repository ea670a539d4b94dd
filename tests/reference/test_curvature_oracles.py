"""Sharpness against closed forms and dense autograd Hessians in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrscope import Objective, sharpness
from lrscope.curvature import DifferenceHessian, ExactHessian

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def classify(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def regress(model, batch):
    return (model(batch[0]) - batch[1]).pow(2).mean()


class Attention(nn.Module):
    """Uses the fused operation, which has no second derivative in its default backends."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.reshape(len(x), -1, 4)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.lstm(x.reshape(len(x), -1, 4))[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


def frozen():
    model = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 3))
    model[0].bias.requires_grad_(False)
    return model


MODELS = {
    "tanh": lambda: nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3)),
    "batchnorm": lambda: nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10), nn.GELU(), nn.Linear(10, 3)),
    "layernorm": lambda: nn.Sequential(nn.Linear(8, 10), nn.LayerNorm(10), nn.GELU(), nn.Linear(10, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 10), nn.Dropout(0.5), nn.Tanh(), nn.Linear(10, 3)),
    "frozen": frozen,
    "tied": Tied,
    "attention": Attention,
    "lstm": Recurrent,
}


def problem(name, num_batches=1):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    X, y = randn(24, 8, seed=1), torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(2))
    return Objective(model, classify, list(zip(X.chunk(num_batches), y.chunk(num_batches), strict=True)))


def dense(objective):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(objective, objective.point())


@pytest.mark.parametrize("method", ["exact", "difference"])
@pytest.mark.parametrize("name", MODELS)
def test_top_eigenvalues_are_those_of_the_dense_hessian(name, method):
    objective = problem(name)
    assert objective.size < 500
    expected = torch.linalg.eigvalsh(dense(objective)).flip(0)[:3]
    result = sharpness(objective, count=3, tol=1e-6, method=method, max_matvecs=600)
    assert result.converged
    torch.testing.assert_close(result.values, expected, rtol=1e-7, atol=1e-9)
    assert result.error < 1e-6


@pytest.mark.parametrize("name", ["tanh", "batchnorm", "tied"])
def test_preconditioned_values_are_those_of_the_dense_matrix(name):
    objective = problem(name)
    P = torch.exp(2 * randn(objective.size, seed=3))
    expected = torch.linalg.eigvals(dense(objective) / P[:, None]).real.max()
    result = sharpness(objective, preconditioner=P, tol=1e-6, max_matvecs=600)
    assert result.value == pytest.approx(float(expected), rel=1e-8)
    # and the vector is an eigenvector of P^-1 H after one division
    x = result.vectors[:, 0] / P.sqrt()
    torch.testing.assert_close((dense(objective) @ x) / P, result.value * x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operator", [ExactHessian, DifferenceHessian])
@pytest.mark.parametrize("num_batches", [1, 3, 6])
def test_products_are_those_of_the_dense_hessian_for_any_number_of_batches(operator, num_batches):
    objective = problem("tanh", num_batches)
    H, D, V = operator(objective, objective.point()), dense(objective), randn(objective.size, 3, seed=5)
    torch.testing.assert_close(H @ V, D @ V, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(H @ V, D @ V, rtol=1e-6, atol=1e-8)  # again, from the kept graphs
    assert H.num_matvecs == 6


def test_quadratic_has_the_eigenvalues_it_was_given():
    spectrum = torch.tensor([7.0, 3.0, 1.0, 0.0, -9.0], dtype=DOUBLE)
    Q, _ = torch.linalg.qr(randn(5, 5))
    A = Q @ torch.diag(spectrum) @ Q.T
    model = nn.Linear(5, 1, bias=False).double()
    objective = Objective(
        model, lambda m, b: 0.5 * (m.weight @ A @ m.weight.T).squeeze() + 0 * b.sum(), [randn(1, 1)]
    )
    result = sharpness(objective, count=5, tol=1e-9)
    torch.testing.assert_close(result.values, spectrum, rtol=1e-9, atol=1e-9)
    assert result.num_matvecs <= 5


def test_linear_regression_has_the_spectrum_of_its_inputs():
    """L = mean (Xw - y)^2, so H = 2 X'X / N, wherever w is."""
    X, y = randn(50, 6, seed=1), randn(50, 1, seed=2)
    objective = Objective(nn.Linear(6, 1, bias=False).double(), regress, [(X, y)])
    expected = 2 * torch.linalg.svdvals(X)[0] ** 2 / 50
    for theta in (objective.point(), 100 * randn(6, seed=3)):
        assert sharpness(objective, theta, tol=1e-8).value == pytest.approx(float(expected), rel=1e-8)


def test_logistic_regression_has_its_textbook_hessian():
    """H = X' diag(p (1 - p)) X / N with p the predicted probabilities."""
    X, y = randn(40, 5, seed=1), (randn(40, seed=2) > 0).double()
    model = nn.Linear(5, 1, bias=False).double()

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(1), batch[1])

    objective, w = Objective(model, loss, [(X, y)]), randn(5, seed=3)
    p = torch.sigmoid(X @ w)
    expected = torch.linalg.eigvalsh(X.T @ torch.diag(p * (1 - p)) @ X / 40)[-1]
    assert sharpness(objective, w, tol=1e-8).value == pytest.approx(float(expected), rel=1e-8)


def test_linear_loss_has_no_curvature():
    model = nn.Linear(3, 1).double()
    objective = Objective(model, lambda m, b: m(b).mean(), [randn(4, 3)])
    assert sharpness(objective).value == 0
