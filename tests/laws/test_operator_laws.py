"""What every operator obeys: linear, symmetric, the same however the data are split, and no trace on the model."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cases import TASKS
from fingerprints import everything
from lrscope import Objective
from lrscope.curvature import (
    NTK,
    Deflated,
    EmpiricalFisher,
    ExactHessian,
    ForwardHessian,
    GaussNewton,
    Preconditioned,
    Scaled,
    Sum,
    block,
)
from lrscope.errors import MeasurementError

DOUBLE = torch.float64
LAW = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def squares(model, batch):
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], 3).to(DOUBLE))


def objective_of(seed, sizes=(32,), loss_fn=cross_entropy):
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    X = torch.randn(32, 3, generator=generator, dtype=DOUBLE)
    y = torch.randint(0, 3, (32,), generator=generator)
    return Objective(model, loss_fn, list(zip(X.split(list(sizes)), y.split(list(sizes)), strict=True)))


def draws(size, seed, num=2):
    return torch.randn(num, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def hessian(objective):
    return ExactHessian(objective, objective.point())


OPERATORS = {
    "gauss_newton": GaussNewton,
    "gauss_newton_squares": lambda o: GaussNewton(Objective(o.model, squares, o.batches)),
    "ntk": NTK,
    "fisher": EmpiricalFisher,
    "block": lambda o: hessian(block(o, "2")),
    "block_gauss_newton": lambda o: GaussNewton(block(o, "*.bias")),
    "sum": lambda o: hessian(o) - 0.5 * GaussNewton(o),
    "sum, hessian on the right": lambda o: EmpiricalFisher(o) + 2 * hessian(o),
    "twice": lambda o: 2 * hessian(o),
    "forward minus exact": lambda o: 3 * GaussNewton(o) + ForwardHessian(o, o.point()) - hessian(o),
    "preconditioned sum": lambda o: Preconditioned(hessian(o) + GaussNewton(o), draws(o.size, 2)[0].exp()),
    "deflated and preconditioned": lambda o: Deflated(
        Preconditioned(hessian(o), draws(o.size, 2)[0].exp()), torch.ones(1), F.normalize(draws(o.size, 1, 1)).T
    ),
    "deflated": lambda o: Deflated(hessian(o), torch.tensor([2.0]), F.normalize(draws(o.size, 1, 1)).T),
    "preconditioned": lambda o: Preconditioned(hessian(o), draws(o.size, 2)[0].exp()),
}
POSITIVE = ["gauss_newton", "gauss_newton_squares", "ntk", "fisher", "block_gauss_newton"]


@pytest.mark.parametrize("name", OPERATORS)
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(-3, 3))
@LAW
def test_products_are_linear_and_symmetric(name, seed, a, b):
    A = OPERATORS[name](objective_of(seed))
    x, y = draws(A.size, seed)
    Ax, Ay = A @ x, A @ y
    torch.testing.assert_close(A @ (a * x + b * y), a * Ax + b * Ay, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x @ Ay, y @ Ax, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", POSITIVE)
@given(seed=seeds)
@LAW
def test_sums_of_squares_have_no_negative_curvature(name, seed):
    A = OPERATORS[name](objective_of(seed))
    (x,) = draws(A.size, seed, 1)
    assert float(x @ (A @ x)) >= 0


@pytest.mark.parametrize("name", OPERATORS)
@given(seed=seeds, cut=st.integers(1, 31))
@LAW
def test_splitting_the_data_changes_nothing(name, seed, cut):
    whole, parts = OPERATORS[name](objective_of(seed)), OPERATORS[name](objective_of(seed, (cut, 32 - cut)))
    (x,) = draws(whole.size, seed, 1)
    torch.testing.assert_close(parts @ x, whole @ x, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sizes", [(30, 2), (1, 1, 1, 1, 27, 1)])
def test_splitting_into_30_and_2_or_six_changes_nothing(name, sizes):
    """Six batches are more than graphs are kept for, so they are rebuilt."""
    whole, parts = OPERATORS[name](objective_of(5)), OPERATORS[name](objective_of(5, sizes))
    (x,) = draws(whole.size, 5, 1)
    for _ in range(2):
        torch.testing.assert_close(parts @ x, whole @ x, rtol=1e-10, atol=1e-12)


@given(seed=seeds, a=st.floats(-3, 3))
@LAW
def test_algebra_is_that_of_dense_matrices(seed, a):
    o = objective_of(seed)
    H, G = hessian(o), GaussNewton(o)
    E = torch.eye(o.size, dtype=DOUBLE)
    dense_H, dense_G = H @ E, G.dense()
    for made, expected in [
        (G + H, dense_G + dense_H),
        (H + G, dense_G + dense_H),
        (G - H, dense_G - dense_H),
        (H - G, dense_H - dense_G),
        (a * G, a * dense_G),
        (-G, -dense_G),
        (Sum(H, Scaled(H, a), G), (1 + a) * dense_H + dense_G),
        (2 * (G + H) * a, 2 * a * (dense_G + dense_H)),
    ]:
        torch.testing.assert_close(made.dense(), expected, rtol=1e-9, atol=1e-10)
        assert made.num_matvecs == o.size


@given(seed=seeds)
@LAW
def test_deflation_leaves_the_other_eigenvalues(seed):
    o = objective_of(seed)
    values, V = torch.linalg.eigh(GaussNewton(o).dense())
    left = Deflated(GaussNewton(o), values[-3:], V[:, -3:]).dense()
    expected = torch.cat([values[:-3], torch.zeros(3, dtype=DOUBLE)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(left), expected, rtol=1e-8, atol=1e-10)


@given(seed=seeds)
@LAW
def test_preconditioned_has_the_eigenvalues_of_the_quotient(seed):
    o = objective_of(seed)
    P = draws(o.size, seed + 1)[0].exp()
    P[3] = torch.inf  # a parameter that does not move
    made = Preconditioned(hessian(o), P).dense()
    expected = torch.linalg.eigvals((hessian(o) @ torch.eye(o.size, dtype=DOUBLE)) / P[:, None]).real.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(made), expected, rtol=1e-7, atol=1e-8)


@given(seed=seeds)
@LAW
def test_hessian_blocks_are_blocks_of_the_hessian(seed):
    o = objective_of(seed)
    theta = draws(o.size, seed)[0]
    dense = ExactHessian(o, theta) @ torch.eye(o.size, dtype=DOUBLE)
    where = {name: torch.zeros(o.size, dtype=torch.bool) for name in o.layout.names}
    for name, mask in where.items():
        o.layout.unflatten(mask)[name].fill_(True)
    for names in (("0",), ("2.weight",), ("*.bias",), ("0.bias", "2")):
        part = block(o, *names, theta=theta)
        mask = torch.stack([where[name] for name in part.layout.names]).any(0)
        H = ExactHessian(part, part.point())
        torch.testing.assert_close(
            H @ torch.eye(part.size, dtype=DOUBLE), dense[mask][:, mask], rtol=1e-9, atol=1e-10
        )
        torch.testing.assert_close(part.grad(part.point()), o.grad(theta)[mask])
        assert part.loss() == pytest.approx(o.loss(theta), rel=1e-12)
        weighed = sum(w * p.grad(p.point()) for w, p in zip(part.weights, part.each(), strict=True))
        torch.testing.assert_close(weighed, o.grad(theta)[mask])


@pytest.mark.parametrize("task_name", TASKS)
def test_every_kind_of_model_has_every_operator_and_keeps_no_trace(task_name):
    task = TASKS[task_name](dtype=DOUBLE)
    model = task.build(0)
    objective = Objective(model, task.loss_fn, list(task.train)[:2])
    before = everything(model)
    last = block(objective, objective.layout.names[-1])
    makers = [GaussNewton, NTK, lambda o: EmpiricalFisher(o, per="batch")]
    if task_name != "batch_norm":
        makers.append(EmpiricalFisher)
    for make in makers:
        A = make(objective)
        x, y = draws(A.size, 3)
        Ax, Ay = A @ x, A @ y
        torch.testing.assert_close(x @ Ay, y @ Ax, rtol=1e-9, atol=1e-9)
        assert float(x @ Ax) > 0
    assert objective.spent.products == 2 * len(makers)
    G = GaussNewton(last)
    x, y = draws(G.size, 3)
    torch.testing.assert_close(x @ (G @ y), y @ (G @ x), rtol=1e-9, atol=1e-9)
    assert everything(model) == before
    assert not model._forward_hooks


class Penalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x):
        return {"hidden": self.first(x)}


def refusals():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = objective_of(0).batches
    return {
        "penalty": (
            GaussNewton,
            net,
            lambda m, b: cross_entropy(m, b) + 0.1 * sum(p.square().sum() for p in m.parameters()),
            "not only through the model's output",
        ),
        "never called": (GaussNewton, net, lambda m, b: F.cross_entropy(m.forward(b[0]), b[1]), "model itself"),
        "own output": (NTK, net, lambda m, b: F.cross_entropy(m[2](m[0](b[0])), b[1]), "model itself"),
        "unknown output": (
            GaussNewton,
            Penalised().double(),
            lambda m, b: F.cross_entropy(m(b[0])["hidden"], b[1]),
            r"returns a dict.*outputs=lambda",
        ),
        "uneven examples": (
            EmpiricalFisher,
            net,
            lambda m, b: (F.cross_entropy(m(b[0]), b[1], reduction="none") * torch.arange(len(b[1])) / 16).mean(),
            "equally weighted",
        ),
        "batch norm": (
            EmpiricalFisher,
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double(),
            cross_entropy,
            "mode='eval'",
        ),
    }, data


@pytest.mark.parametrize("name", refusals()[0])
def test_what_cannot_be_split_is_refused_without_trace(name):
    cases, data = refusals()
    make, model, loss_fn, words = cases[name]
    objective = Objective(model, loss_fn, data)
    before = everything(model)
    with pytest.raises(MeasurementError, match=words):
        _ = make(objective) @ draws(objective.size, 0)[0]
    assert everything(model) == before
    assert not model._forward_hooks


def test_outputs_can_be_named():
    model = Penalised().double()
    data = objective_of(0).batches
    objective = Objective(model, lambda m, b: F.cross_entropy(m(b[0])["hidden"], b[1]), data)
    named = GaussNewton(objective, outputs=lambda out: out["hidden"])
    plain = GaussNewton(Objective(model.first, cross_entropy, data))
    torch.testing.assert_close(named.dense(), plain.dense())


def test_wrong_arguments_are_refused():
    o = objective_of(0)
    G = GaussNewton(o)
    with pytest.raises(ValueError, match=r"v: expected shape \(38,\)"):
        _ = G @ torch.ones(5)
    with pytest.raises(ValueError, match="theta: expected"):
        GaussNewton(o, torch.ones(3))
    with pytest.raises(TypeError, match=r"expected a lrs\.Objective"):
        NTK(o.model)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'example' or 'batch'"):
        EmpiricalFisher(o, per="token")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'auto', 'exact' or 'difference'"):
        GaussNewton(o, method="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one size, got"):
        Sum(G, NTK(o))
    with pytest.raises(ValueError, match="vectors: expected shape"):
        Deflated(G, torch.ones(2), torch.ones(38, 1))
    with pytest.raises(ValueError, match="positive numbers"):
        Preconditioned(G, -torch.ones(38))
    with pytest.raises(MeasurementError, match=r"'head' fits no trainable.*0\.weight"):
        block(o, "head")
    with pytest.raises(MeasurementError, match="none given"):
        block(o)
    with pytest.raises(ValueError, match="theta: expected"):
        block(o, "0", theta=torch.ones(3))
