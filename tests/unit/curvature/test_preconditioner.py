"""The diagonal of the coming step, and the thresholds, against the optimizers of torch themselves."""

import pytest
import torch
from torch import nn

from lrscope import Objective
from lrscope.curvature import block, headroom, preconditioner, reference_lr, sharpness, stability_threshold
from lrscope.errors import MeasurementError

DOUBLE = torch.float64


def small(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, y = torch.randn(10, 3, dtype=DOUBLE), torch.randn(10, 2, dtype=DOUBLE)
    return model, Objective(model, lambda m, b: (m(b[0]) - b[1]).pow(2).mean(), [(X, y)])


def train(model, objective, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss_fn(model, objective.batches[0]).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_adam_matches_the_formula_with_the_current_gradient_inside(kind, steps):
    model, objective = small()
    optimizer = kind(model.parameters(), lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0)
    train(model, objective, optimizer, steps)
    g = objective.grad(objective.point())
    v = torch.zeros_like(g)
    if steps:
        v = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in model.parameters()])
    t = steps + 1
    v = 0.95 * v + 0.05 * g * g
    expected = (1 - 0.8**t) * ((v / (1 - 0.95**t)).sqrt() + 1e-6)
    torch.testing.assert_close(preconditioner(optimizer, objective), expected)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_the_step_rmsprop_takes_is_the_preconditioned_one(centered, steps):
    model, objective = small()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, centered=centered, weight_decay=0.1, eps=1e-4)
    train(model, objective, optimizer, steps)
    before, P = objective.point(), preconditioner(optimizer, objective)
    g = objective.grad(before) + 0.1 * before
    train(model, objective, optimizer, 1)
    torch.testing.assert_close(objective.point() - before, -1e-3 * g / P, rtol=1e-6, atol=1e-12)


def test_the_step_adam_takes_is_the_preconditioned_one():
    """On the first step m = (1 - beta1) g, so the update is lr (1 - beta1) g / P."""
    model, objective = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before, g, P = objective.point(), objective.grad(objective.point()), preconditioner(optimizer, objective)
    train(model, objective, optimizer, 1)
    torch.testing.assert_close(objective.point() - before, -1e-2 * (1 - 0.9) * g / P, rtol=1e-6, atol=1e-12)


def test_sgd_has_ones_and_needs_no_gradient():
    model, objective = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert (preconditioner(optimizer, objective) == 1).all()
    assert objective.spent.gradients == 0


def test_an_optimizer_of_a_block_is_enough_for_the_block():
    model, objective = small()[:2]
    last = [n for n, _ in model.named_parameters()][-1]
    optimizer = torch.optim.AdamW([model.get_parameter(last)])
    part = block(objective, last)
    assert preconditioner(optimizer, part).shape == (part.size,)
    with pytest.raises(MeasurementError, match="does not hold the trainable parameter"):
        preconditioner(optimizer, objective)


def test_groups_of_different_rates_are_absorbed_in_the_models_order():
    model, objective = small()
    groups = [{"params": model[2].parameters(), "lr": 0.1}, {"params": model[0].parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    P = preconditioner(optimizer, objective)
    assert reference_lr(optimizer) == 0.1
    assert (P[:16] == 0.5).all()
    assert (P[16:] == 1).all()
    # lr_0 P^-1 is the matrix of real learning rates, so stability is judged correctly.
    H = torch.autograd.functional.hessian(objective, objective.point())
    rates = torch.cat([torch.full((16,), 0.2), torch.full((10,), 0.1)]).double()
    expected = torch.linalg.eigvals(torch.diag(rates) @ H).real.max()
    assert 0.1 * sharpness(objective, preconditioner=P, tol=1e-8).value == pytest.approx(float(expected), rel=1e-6)


def test_a_group_at_rate_zero_does_not_move():
    model, objective = small()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    P = preconditioner(optimizer, objective)
    assert torch.isinf(P[:16]).all()
    H = torch.autograd.functional.hessian(objective, objective.point())[16:, 16:]
    found = sharpness(objective, preconditioner=P, tol=1e-8).value
    assert found == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)


def test_rates_held_at_zero_by_a_schedule_keep_their_ratios():
    model, objective = small()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}]
    optimizer = torch.optim.Adam(groups)
    expected = preconditioner(optimizer, objective)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    torch.testing.assert_close(preconditioner(optimizer, objective), expected)
    assert reference_lr(optimizer) == 0
    del optimizer.param_groups[1]["initial_lr"]
    for ask in (reference_lr, lambda o: preconditioner(o, objective)):
        with pytest.raises(MeasurementError, match="all 2 groups are at learning rate 0"):
            ask(optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    assert reference_lr(optimizer) == 0.1


def test_refusals_name_the_cause():
    model, objective = small()
    with pytest.raises(MeasurementError, match=r"parameter '2\.weight'"):
        preconditioner(torch.optim.Adam(model[0].parameters()), objective)
    with pytest.raises(MeasurementError, match="Adagrad"):
        preconditioner(torch.optim.Adagrad(model.parameters()), objective)
    with pytest.raises(MeasurementError, match="maximize"):
        preconditioner(torch.optim.SGD(model.parameters(), lr=1, maximize=True), objective)
    with pytest.raises(ValueError, match="gradient"):
        preconditioner(torch.optim.Adam(model.parameters()), objective, torch.ones(3))
    with pytest.raises(ValueError, match="step"):
        stability_threshold(torch.optim.SGD(model.parameters(), lr=1), step="middle")
    groups = [{"params": model[0].parameters(), "momentum": 0.9}, {"params": model[2].parameters()}]
    with pytest.raises(MeasurementError, match="momentum"):
        stability_threshold(torch.optim.SGD(groups, lr=1))
    with pytest.raises(ValueError, match="threshold"):
        headroom(0.1, 3.0, 0.0)


def grows(make, lr, *, first=False, steps=400):
    """Whether the optimizer leaves the minimum of x^2 / 2 (curvature 1) at this learning rate."""
    x = nn.Parameter(torch.ones((), dtype=DOUBLE))
    optimizer = make([x], lr)
    for _ in range(1 if first else steps):
        optimizer.zero_grad()
        (0.5 * x * x).backward()
        optimizer.step()
        if not abs(x.item()) < 1e4:  # before Adam's v notices
            return True
    return not abs(x.item()) <= 1  # nan has grown, too


def edge(make, low, high, **options):
    for _ in range(16):
        mid = (low + high) / 2
        low, high = (low, mid) if grows(make, mid, **options) else (mid, high)
    return high


SGD = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("name", SGD)
@pytest.mark.parametrize("step", ["first", "late"])
def test_sgd_thresholds_are_those_of_the_real_optimizer(name, step):
    def make(params, lr):
        return torch.optim.SGD(params, lr=lr, **SGD[name])

    expected = stability_threshold(make([nn.Parameter(torch.ones(()))], 1.0), step)
    assert edge(make, 0.1, 10.0, first=step == "first") == pytest.approx(expected, rel=0.01)
    assert {"plain": 2.0, "momentum": 3.8}.get(name, expected) == pytest.approx(expected) or step == "first"


def test_adams_first_threshold_is_that_of_the_real_optimizer():
    """At x = 1, g = 1 and P = (1 - beta1) (1 + eps): curvature 1, preconditioned 1 / P = 10, edge at lr = 2."""

    def make(params, lr):
        return torch.optim.Adam(params, lr=lr)

    threshold = stability_threshold(make([nn.Parameter(torch.ones(()))], 1.0), "first")
    assert threshold == pytest.approx(20)
    assert edge(make, 0.1, 10.0, first=True) * 10 == pytest.approx(threshold, rel=0.01)


def test_adams_late_threshold_with_a_frozen_preconditioner():
    """beta2 = 1 freezes v at the value put there; late means that both corrections have died away."""

    def make(params, lr):
        optimizer = torch.optim.Adam(params, lr=lr, eps=0.0, betas=(0.9, 1 - 1e-13))
        (x,) = params
        optimizer.state[x] = {
            "step": torch.tensor(1e15, dtype=DOUBLE),
            "exp_avg": torch.zeros_like(x),
            "exp_avg_sq": torch.ones_like(x),
        }
        return optimizer

    threshold = stability_threshold(make([nn.Parameter(torch.ones(()))], 1.0))
    assert threshold == pytest.approx(38)
    assert edge(make, 1.0, 100.0) == pytest.approx(threshold, rel=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprops_thresholds_with_a_frozen_preconditioner(momentum):
    def make(params, lr):
        optimizer = torch.optim.RMSprop(params, lr=lr, alpha=1.0, eps=0.0, momentum=momentum)
        (x,) = params
        zero = torch.zeros_like(x)
        optimizer.state[x] = {"step": torch.tensor(0.0), "square_avg": zero + 4, "momentum_buffer": zero.clone()}
        return optimizer

    for step, expected in (("first", 2.0), ("late", 2 + 2 * momentum)):
        threshold = stability_threshold(make([nn.Parameter(torch.ones(()))], 1.0), step)
        assert threshold == pytest.approx(expected)
        # P = 2, so curvature 1 is 1/2 preconditioned
        assert edge(make, 0.1, 20.0, first=step == "first") / 2 == pytest.approx(threshold, rel=0.01)


def test_headroom_is_the_share_of_the_stable_range_in_use():
    assert headroom(0.1, 10.0, 2.0) == pytest.approx(0.5)
    assert headroom(0.1, -10.0, 2.0) == 0
    _, objective = small()
    result = sharpness(objective)
    assert headroom(2 / result.value, result, 2.0) == pytest.approx(1)
