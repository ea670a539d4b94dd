"""What sharpness() promises besides the number: refusals, no trace, an account of itself."""

import copy
import hashlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from lrscope import Objective, SharpnessTracker, sharpness
from lrscope.curvature import (
    DifferenceHessian,
    EigenResult,
    ExactHessian,
    GaussNewton,
    Preconditioned,
    choose,
    preconditioned_sharpness,
    preconditioner,
)
from lrscope.errors import LrscopeWarning, MeasurementError


def mse(model, batch):
    return (model(batch[0]) - batch[1]).pow(2).mean()


def problem(model=None, dtype=torch.float64, num=12):
    generator = torch.Generator().manual_seed(0)
    if model is None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    X, y = (
        torch.randn(num, 4, generator=generator, dtype=dtype),
        torch.randn(num, 3, generator=generator, dtype=dtype),
    )
    return Objective(model.to(dtype), mse, [(X, y)])


def fingerprint(model):
    h = hashlib.sha256()
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        h.update(name.encode() + t.detach().numpy().tobytes())
        h.update(str(None if t.grad is None else t.grad.sum().item()).encode())
    h.update(str([m.training for m in model.modules()]).encode())
    h.update(torch.get_rng_state().numpy().tobytes())
    h.update(str(random.getstate()).encode() + str(np.random.get_state()).encode())
    return h.hexdigest()


class Once(torch.autograd.Function):
    """x^2 with a first derivative only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class OnceModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return Once.apply(self.linear(x))


class Wild(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
        self.body[2].eval()

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("method", ["exact", "difference", "auto"])
def test_measuring_leaves_no_trace(method):
    objective = problem(Wild())
    objective.loss_fn(objective.model, objective.batches[0]).backward()
    before = fingerprint(objective.model)
    sharpness(objective, method=method)
    tracker = SharpnessTracker(objective, torch.optim.Adam(objective.model.parameters()), method=method)
    tracker.update()
    tracker.update()
    assert fingerprint(objective.model) == before


def test_no_trace_after_an_error_either():
    objective = problem(Wild())
    before = fingerprint(objective.model)
    with pytest.raises(MeasurementError, match="parameters are nan"):
        sharpness(objective, objective.point() * float("nan"))
    failing = Objective(objective.model, lambda m, b: m(b[0]).sum() * float("nan"), objective.batches)
    with pytest.raises(MeasurementError, match="loss is nan"):
        sharpness(failing)
    assert fingerprint(objective.model) == before


def test_dropout_and_seed_make_the_answer_repeatable():
    objective = problem(Wild())
    torch.manual_seed(7)
    first = sharpness(objective, tol=1e-6)
    torch.manual_seed(8)
    assert torch.equal(sharpness(objective, tol=1e-6).vectors, first.vectors)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"theta": torch.zeros(3)}, "theta"),
        ({"count": 0}, "count"),
        ({"count": 10_000}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": True}, "count"),
        ({"tol": "a"}, "tol"),
        ({"max_matvecs": 2.5}, "max_matvecs"),
        ({"tol": 0.0}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"max_matvecs": 0}, "max_matvecs"),
        ({"start": torch.ones(3)}, "start"),
        ({"start": torch.zeros(43)}, "start"),
        ({"preconditioner": torch.ones(3)}, "preconditioner"),
        ({"preconditioner": torch.zeros(43)}, "preconditioner"),
        ({"method": "magic"}, "method"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        sharpness(problem(), **options)


def test_gradient_that_is_not_finite_is_refused():
    model = nn.Linear(4, 3)
    objective = problem(model)
    rooted = Objective(model, lambda m, b: (m(b[0]) * 0).pow(2).sum().sqrt() + mse(m, b), objective.batches)
    with pytest.raises(MeasurementError, match="gradient has"):
        sharpness(rooted)


def test_loss_that_ignores_the_parameters_is_refused():
    objective = problem()
    deaf = Objective(objective.model, lambda m, b: b[0].mean(), objective.batches)
    with pytest.raises(MeasurementError, match="no gradient"):
        sharpness(deaf)


def test_a_model_is_no_objective():
    model = problem().model
    for measure in (sharpness, SharpnessTracker):
        with pytest.raises(
            TypeError, match=r"objective: .* got Sequential; .*Objective\(model, loss_fn, \[batch\]\)"
        ):
            measure(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured_coarsely(dtype):
    objective = problem(dtype=dtype)
    wide = [tuple(part.double() for part in batch) for batch in objective.batches]
    exact = sharpness(Objective(copy.deepcopy(objective.model).double(), mse, wide), tol=1e-6).value
    found = sharpness(objective)
    assert found.value == pytest.approx(exact, rel=0.05)
    assert found.vectors.dtype == torch.float32
    assert sharpness(objective, start=found.vectors).value == pytest.approx(exact, rel=0.05)
    tracker = SharpnessTracker(objective, torch.optim.SGD(objective.model.parameters(), lr=0.1))
    for _ in range(4):
        assert tracker.update().value == pytest.approx(exact, rel=0.05)
    adam = SharpnessTracker(objective, torch.optim.Adam(objective.model.parameters(), eps=1e-3))
    assert adam.update().value > 0


def test_without_a_second_derivative_the_difference_steps_in_and_says_so():
    objective = problem(OnceModel())
    result = sharpness(objective, tol=1e-4)
    assert result.method == "difference"
    assert "no second derivative" in result.note
    squares = Objective(objective.model, lambda m, b: (m.linear(b[0]).pow(2) - b[1]).pow(2).mean(), objective.batches)
    assert result.value == pytest.approx(sharpness(squares, tol=1e-6, method="exact").value, rel=1e-4)
    with pytest.raises(MeasurementError, match=r"no second derivative.*method='difference'"):
        sharpness(objective, method="exact")


def test_kinks_in_float32_send_tracking_to_the_exact_product():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3))
    objective = problem(model, torch.float32, num=200)
    choice = choose(objective, objective.point(), purpose="track")
    assert choice.method == "exact"
    assert "kinks of Relu" in choice.why
    smooth = problem(dtype=torch.float32)
    assert choose(smooth, smooth.point(), purpose="track").method == "difference"
    assert choose(smooth, smooth.point(), purpose="solve").method == "exact"


def test_coarse_products_are_warned_about():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3))
    objective = problem(model, torch.float32, num=200)
    with pytest.warns(LrscopeWarning, match="rough guide"):
        choose(objective, objective.point(), method="difference")


def test_the_account_adds_up():
    objective = problem()
    spent = objective.spent
    result = sharpness(objective, count=2)
    probed = result.cost.products - result.num_matvecs
    assert probed == 3
    assert result.cost.gradients == 1
    assert (objective.spent - spent).products == result.cost.products
    assert result.cost.seconds > 0
    again = sharpness(objective, method="difference")
    assert again.cost.products == again.num_matvecs  # the probe is made once
    text = str(result)
    assert text.startswith("sharpness ")
    assert "(residual)" in text
    assert "products, exact" in text
    assert "not converged" in str(sharpness(objective, tol=1e-12, max_matvecs=2))
    assert "preconditioned" in str(sharpness(objective, preconditioner=torch.ones(objective.size)))
    assert result.to_dict()["num_matvecs"] == result.num_matvecs


def test_an_unlucky_start_is_found_out():
    objective = problem()
    H = torch.autograd.functional.hessian(objective, objective.point())
    values, vectors = torch.linalg.eigh(H)
    result = sharpness(objective, start=vectors[:, -2])
    assert result.value == pytest.approx(float(values[-1]), rel=1e-2)


@pytest.mark.parametrize("operator", [ExactHessian, DifferenceHessian])
def test_the_operator_takes_vectors_and_matrices_and_refuses_others(operator):
    objective = problem()
    H = operator(objective, objective.point())
    V = torch.randn(objective.size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((H @ V)[:, 1], H @ V[:, 1])
    assert not (H @ torch.zeros(objective.size, dtype=torch.float64)).any()
    with pytest.raises(ValueError, match="v: expected"):
        H @ torch.zeros(3)


def test_any_operator_has_a_sharpness():
    objective = problem()
    G = GaussNewton(objective)
    found = sharpness(G, tol=1e-6, count=2)
    expected = torch.linalg.eigvalsh(G.dense()).flip(0)[:2]
    torch.testing.assert_close(found.values, expected)
    assert found.batches == "12 examples in 1 batch, train mode"
    H = ExactHessian(objective, objective.point())
    torch.testing.assert_close(sharpness(2 * H + G, tol=1e-6).values, sharpness(G + H + H, tol=1e-6).values)
    with pytest.raises(ValueError, match="an operator comes with its own point"):
        sharpness(G, objective.point())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_preconditioned_sharpness_is_what_the_coming_step_feels(kind):
    objective = problem()
    optimizer = kind(objective.model.parameters(), lr=1e-3)
    spent = objective.spent
    found = preconditioned_sharpness(objective, optimizer, tol=1e-6)
    P = preconditioner(optimizer, objective)
    H = ExactHessian(objective, objective.point())
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(Preconditioned(H, P).dense())[-1:])
    assert found.cost.gradients == (objective.spent - spent).gradients - (kind is not torch.optim.SGD)


def test_a_cold_start_tells_the_chance_of_having_missed_a_larger_one():
    objective = problem()
    cold = sharpness(objective)
    assert 0 <= cold.risk <= 1e-2
    assert sharpness(objective, risk=1e-6).risk <= 1e-6
    warm = sharpness(objective, start=cold.vectors)
    assert warm.risk != warm.risk  # a start that someone chose has no probability


def test_a_solve_that_keeps_few_vectors_finds_the_same_eigenvalue():
    objective = problem()
    wide, narrow = sharpness(objective, tol=1e-6), sharpness(objective, tol=1e-6, max_basis=4)
    assert narrow.converged
    assert narrow.num_matvecs >= wide.num_matvecs
    torch.testing.assert_close(narrow.values, wide.values)
    with pytest.raises(ValueError, match="max_basis: expected at least"):
        sharpness(objective, max_basis=2)
    with pytest.raises(ValueError, match="risk: expected a probability"):
        sharpness(objective, risk=2.0)


def test_the_result_is_a_measurement_like_all_others():
    found = sharpness(problem(), count=3)
    table = found.to_frame()
    assert table["values"] == found.values.tolist()
    assert "vectors" not in found.to_dict()
    ax = found.plot()
    assert ax.get_ylabel() == "eigenvalue"
    assert isinstance(found, EigenResult)
