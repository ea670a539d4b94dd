"""Gauss-Newton, Fisher and tangent kernel against closed forms and dense Jacobians in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrscope import Objective
from lrscope.curvature import NTK, EmpiricalFisher, ExactHessian, GaussNewton, block
from lrscope.errors import MeasurementError

DOUBLE = torch.float64
N, D, C = 24, 4, 3


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


X, Y = randn(N, D, seed=1), torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(2))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def squares(model, batch):
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], C).to(DOUBLE))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 6), nn.GELU(), nn.Linear(6, C)).double()


def linear():
    torch.manual_seed(0)
    return nn.Linear(D, C, bias=False).double()


def jacobian(objective):
    """All outputs by all parameters, ``(N * C, P)``, by torch.func."""
    params = objective.layout.unflatten(objective.point())
    J = torch.func.jacrev(lambda p: torch.func.functional_call(objective.model, p, (X,)))(params)
    return torch.cat([J[name].reshape(N * C, -1) for name in objective.layout.names], dim=1)


def dense(objective):
    return ExactHessian(objective, objective.point()) @ torch.eye(objective.size, dtype=DOUBLE)


@pytest.mark.parametrize("loss_fn", [cross_entropy, squares])
def test_gauss_newton_is_the_product_of_its_factors(loss_fn):
    objective = Objective(network(), loss_fn, [(X, Y)])
    J = jacobian(objective)
    if loss_fn is squares:
        curve = 2 / (N * C) * torch.eye(N * C, dtype=DOUBLE)
    else:
        p = objective.model(X).softmax(1).detach()
        curve = torch.block_diag(*[torch.diag(q) - torch.outer(q, q) for q in p]) / N
    torch.testing.assert_close(GaussNewton(objective).dense(), J.T @ curve @ J, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss_fn", [cross_entropy, squares])
def test_gauss_newton_is_the_hessian_of_a_linear_model(loss_fn):
    objective = Objective(linear(), loss_fn, [(X, Y)])
    torch.testing.assert_close(GaussNewton(objective).dense(), dense(objective), rtol=1e-10, atol=1e-12)


def test_the_last_layer_of_any_network_is_linear():
    objective = Objective(network(), cross_entropy, [(X, Y)])
    head = block(objective, "2")
    torch.testing.assert_close(GaussNewton(head).dense(), dense(head), rtol=1e-10, atol=1e-12)
    body = block(objective, "0")
    assert float((GaussNewton(body).dense() - dense(body)).norm()) > 1e-3


def test_linear_regression_has_the_covariance_of_its_inputs():
    objective = Objective(linear(), squares, [(X, Y)])
    expected = torch.kron(torch.eye(C, dtype=DOUBLE), 2 * X.T @ X / (N * C))
    torch.testing.assert_close(GaussNewton(objective).dense(), expected, rtol=1e-10, atol=1e-12)
    kernel = torch.kron(X @ X.T, torch.eye(C, dtype=DOUBLE))
    torch.testing.assert_close(NTK(objective).dense(), kernel, rtol=1e-10, atol=1e-12)


def test_softmax_regression_has_its_textbook_matrix():
    objective = Objective(linear(), cross_entropy, [(X, Y)])
    p = objective.model(X).softmax(1).detach()
    expected = sum(
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(x, x)) for q, x in zip(p, X, strict=True)
    )
    torch.testing.assert_close(GaussNewton(objective).dense(), expected / N, rtol=1e-10, atol=1e-12)


def test_logistic_regression_in_one_output():
    """H = X' diag(p (1 - p)) X / N, and F = X' diag((p - y)^2) X / N."""
    model, y = nn.Linear(D, 1, bias=False).double(), (Y > 0).to(DOUBLE)
    objective = Objective(model, lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]).squeeze(1), b[1]), [(X, y)])
    p = torch.sigmoid(model(X).squeeze(1)).detach()
    torch.testing.assert_close(GaussNewton(objective).dense(), X.T @ torch.diag(p * (1 - p)) @ X / N)
    torch.testing.assert_close(EmpiricalFisher(objective).dense(), X.T @ torch.diag((p - y) ** 2) @ X / N)


def test_the_kernel_is_that_of_the_dense_jacobian_and_shares_the_spectrum_of_gauss_newton():
    objective = Objective(network(), squares, [(X[:7], Y[:7]), (X[7:], Y[7:])])
    J = jacobian(objective)
    K = NTK(objective)
    assert K.size == N * C
    torch.testing.assert_close(K.dense(), J @ J.T, rtol=1e-10, atol=1e-12)
    G = torch.linalg.eigvalsh(GaussNewton(objective).dense())
    torch.testing.assert_close(2 / (N * C) * torch.linalg.eigvalsh(K.dense())[-20:], G[-20:], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("loss_fn", [cross_entropy, squares])
def test_empirical_fisher_is_the_second_moment_of_single_gradients(loss_fn):
    model = network()
    single = Objective(model, loss_fn, [(X[i : i + 1], Y[i : i + 1]) for i in range(N)])
    grads = torch.stack([one.grad(one.point()) for one in single.each()])
    expected = grads.T @ grads / N
    for batches in ([(X, Y)], [(X[:22], Y[:22]), (X[22:], Y[22:])]):
        objective = Objective(model, loss_fn, batches)
        torch.testing.assert_close(EmpiricalFisher(objective).dense(), expected, rtol=1e-9, atol=1e-12)
    by_batch = EmpiricalFisher(single, per="batch").dense()
    torch.testing.assert_close(by_batch, expected, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_vectorised_is_taken_one_by_one():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(D, C)

        def forward(self, x):
            z = self.layer(x)
            return z if x.sum().item() < 1e9 else -z  # .item() has no batching rule

    torch.manual_seed(0)
    objective = Objective(Branch().double(), cross_entropy, [(X, Y)])
    plain = Objective(objective.model.layer, cross_entropy, [(X, Y)])
    torch.testing.assert_close(EmpiricalFisher(objective).dense(), EmpiricalFisher(plain).dense())


def test_several_calls_of_the_model_are_all_outputs():
    """Two views of each example, as in a consistency loss."""
    model = linear()
    objective = Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]) + m(-b[0]).square().mean(), [(X, Y)])
    torch.testing.assert_close(GaussNewton(objective).dense(), dense(objective), rtol=1e-10, atol=1e-12)


class Once(torch.autograd.Function):
    """tanh with a first derivative only, as fused kernels have."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class Fused(nn.Module):
    def __init__(self, layers, activation):
        super().__init__()
        self.layers, self.activation = layers, activation

    def forward(self, x):
        return self.layers[1](self.activation(self.layers[0](x)))


@pytest.mark.parametrize("make", [GaussNewton, NTK, EmpiricalFisher])
@pytest.mark.parametrize("num_batches", [1, 6])
def test_differences_stand_in_where_the_backward_cannot_be_differentiated(make, num_batches):
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(D, 5), nn.Linear(5, C)]).double()
    batches = list(zip(X.chunk(num_batches), Y.chunk(num_batches), strict=True))
    once = Objective(Fused(layers, Once.apply), cross_entropy, batches)
    twice = Objective(Fused(layers, torch.tanh), cross_entropy, batches)
    A, B = make(once), make(twice)
    torch.testing.assert_close(A.dense(), B.dense(), rtol=1e-6, atol=1e-8)
    assert (A.method, B.method) == ("difference", "exact")
    torch.testing.assert_close(make(twice, method="difference").dense(), B.dense(), rtol=1e-6, atol=1e-8)
    with pytest.raises(MeasurementError, match=r"no exact product .*cannot be differentiated.*method='difference'"):
        _ = make(once, method="exact") @ torch.ones(A.size, dtype=DOUBLE)


class FusedCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose backward hides from autograd, as that of fused losses does."""

    @staticmethod
    def forward(ctx, z, y):
        p = z.softmax(1)
        ctx.save_for_backward(p, y)
        return F.cross_entropy(z, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        p, y = ctx.saved_tensors
        return grad * (p - F.one_hot(y, C)) / len(y), None


def test_a_loss_that_hides_its_curvature_is_found_out():
    model = network()
    fused = Objective(model, lambda m, b: FusedCrossEntropy.apply(m(b[0]), b[1]), [(X, Y)])
    G = GaussNewton(fused)
    expected = GaussNewton(Objective(model, cross_entropy, [(X, Y)])).dense()
    torch.testing.assert_close(G.dense(), expected, rtol=1e-6, atol=1e-8)
    assert G.method == "difference"
    assert NTK(fused).dense().shape == (N * C, N * C)
    with pytest.raises(MeasurementError, match="the loss cannot be differentiated"):
        _ = GaussNewton(fused, method="exact") @ torch.ones(fused.size, dtype=DOUBLE)


class Noisy(nn.Module):
    """Draws of the model's own, which nobody switches off."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, 6), nn.Linear(6, C)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.second(h * 2 * torch.bernoulli(torch.full_like(h, 0.5)))


@pytest.mark.parametrize("num_batches", [2, 6])
def test_random_draws_repeat_from_evaluation_to_evaluation(num_batches):
    torch.manual_seed(0)
    objective = Objective(
        Noisy().double(), cross_entropy, list(zip(X.chunk(num_batches), Y.chunk(num_batches), strict=True))
    )
    head = block(objective, "second")
    expected = dense(head)  # the last layer is linear, so this is Gauss-Newton for the same draws
    for method in ("exact", "difference"):
        torch.testing.assert_close(GaussNewton(head, method=method).dense(), expected, rtol=1e-6, atol=1e-8)
    with pytest.raises(MeasurementError, match="per='batch'"):
        EmpiricalFisher(objective).dense()
    F_ = EmpiricalFisher(objective, per="batch").dense()
    torch.testing.assert_close(F_, F_.T)
    assert int(torch.linalg.matrix_rank(F_)) == num_batches


def test_autocast_is_good_to_the_digits_of_bfloat16():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 6), nn.GELU(), nn.Linear(6, C))

    def mixed(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(model, batch)

    batches = [(X.float(), Y)]
    for make in (GaussNewton, NTK, EmpiricalFisher):
        A, B = make(Objective(model, mixed, batches)), make(Objective(model, cross_entropy, batches))
        v = torch.randn(A.size, generator=torch.Generator().manual_seed(1))
        assert float((A @ v - B @ v).norm() / (B @ v).norm()) < 0.03
        assert A.method == "exact"
        assert A.error < 1e-2


def test_a_language_model_of_transformers_is_split_by_its_logits():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=13, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    ids = torch.randint(0, 13, (3, 6), generator=torch.Generator().manual_seed(0))
    objective = Objective(model, lambda m, b: m(**b).loss, [{"input_ids": ids, "labels": ids}])
    head = block(objective, "lm_head")  # linear in the outputs, so the two matrices agree
    v = torch.randn(head.size, generator=torch.Generator().manual_seed(1))
    expected = ExactHessian(head, head.point()) @ v
    torch.testing.assert_close(GaussNewton(head) @ v, expected, rtol=1e-4, atol=1e-6)
    assert NTK(objective).size == 3 * 6 * 13
    x = torch.randn(objective.size, generator=torch.Generator().manual_seed(2))
    grads = [
        one.grad(one.point())
        for one in (Objective(model, objective.loss_fn, [{"input_ids": i[None], "labels": i[None]}]) for i in ids)
    ]
    fisher = sum(g * (g @ x) for g in grads) / 3
    torch.testing.assert_close(EmpiricalFisher(objective) @ x, fisher, rtol=1e-3, atol=1e-5)
