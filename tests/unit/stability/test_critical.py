"""The critical learning rate against closed forms, and everything it must leave alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope.objective import Objective
from lrscope.optimizers import OptimizerSpec
from lrscope.stability import critical_lr


class Bowl(nn.Module):
    """L = 1/2 sum_i h_i x_i^2, whose Hessian is diag(h)."""

    def __init__(self, h, x):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x, dtype=torch.float64))
        self.register_buffer("h", torch.tensor(h, dtype=torch.float64))

    def forward(self):
        return 0.5 * (self.h * self.x**2).sum()


def bowl_loss(model, batch):
    return batch.mean() * model()


def bowl(h, x, scales=(1.0,)):
    return Objective(Bowl(h, x), bowl_loss, [torch.full((2,), s, dtype=torch.float64) for s in scales])


curvatures = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


@given(h=curvatures, tol=st.sampled_from([0.2, 0.05, 0.01]), data=st.data())
def test_gradient_descent_on_a_bowl_crosses_at_twice_the_inverse_curvature_along_the_gradient(h, tol, data):
    x = data.draw(st.lists(st.floats(0.1, 10), min_size=len(h), max_size=len(h)))
    objective = bowl(h, x)
    found = critical_lr(objective, "sgd(momentum=0)", tol=tol, curvature=False)
    g = [a * b for a, b in zip(h, x, strict=True)]
    exact = 2 * sum(v * v for v in g) / sum(v * v * c for v, c in zip(g, h, strict=True))
    assert found.status == "found"
    assert found.low <= exact * (1 + 1e-6)
    assert exact <= found.high * (1 + 1e-6)
    assert found.high / found.low <= 1 + tol
    assert found.lr >= 2 / max(h) / (1 + tol)
    assert found.cost.forwards <= 25
    assert found.cost.gradients == 1


def test_first_adam_step_on_a_bowl_is_a_sign_step():
    # theta - lr * sign(g) for eps = 0, so the loss is back where it was at lr = 2 x for one coordinate
    found = critical_lr(bowl([3.0], [0.7]), "adam(eps=0)", tol=0.01, curvature=True)
    assert found.low <= 1.4 <= found.high
    # and the preconditioned threshold says the same: P = (1-b1) |g|, threshold 2/(1-b1), so 2 |g| / h = 2 x
    assert found.two_over_sharpness == pytest.approx(1.4, rel=1e-3)


def test_one_reading_per_batch_gives_the_interval():
    found = critical_lr(bowl([1.0], [1.0], scales=(1.0, 2.0, 4.0)), "sgd", tol=0.01)
    assert found.samples == pytest.approx((2.0, 1.0, 0.5), rel=0.01)
    assert found.lr == pytest.approx(1.0, rel=0.01)
    assert (found.low, found.high) == pytest.approx((0.5, 2.0), rel=0.01)
    assert found.cost.gradients >= 3


def test_momentum_of_a_live_optimizer_enters_its_next_step():
    objective = bowl([1.0], [1.0])
    model = objective.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    fresh = critical_lr(objective, optimizer, tol=0.01, curvature=False)
    assert fresh.lr == pytest.approx(2.0, rel=0.01)
    bowl_loss(model, objective.batches[0]).backward()
    optimizer.step()  # x = 0.7, momentum buffer 1.0, so the next direction is 0.7 + 0.9
    live = critical_lr(objective, optimizer, tol=0.01, curvature=False)
    assert live.lr == pytest.approx(2 * 0.7 / 1.6, rel=0.01)


def test_group_ratios_are_kept():
    model = nn.ParameterDict(
        {"a": nn.Parameter(torch.tensor(1.0).double()), "b": nn.Parameter(torch.tensor(1.0).double())}
    )
    objective = Objective(model, lambda m, b: b.mean() * (m["a"] ** 2 + m["b"] ** 2) / 2, [torch.ones(2).double()])
    optimizer = torch.optim.SGD([{"params": [model["a"]], "lr": 0.1}, {"params": [model["b"]], "lr": 0.0}], lr=0.1)
    # only a moves: L(lr) = ((1 - lr)^2 + 1) / 2 is back at 1 for lr = 2
    assert critical_lr(objective, optimizer, tol=0.01, curvature=False).lr == pytest.approx(2.0, rel=0.01)


def test_statuses_say_why_there_is_no_number():
    linear = Objective(nn.Linear(1, 1, bias=False).double(), lambda m, b: m(b).mean(), [torch.ones(2, 1).double()])
    found = critical_lr(linear, "sgd(momentum=0)", largest=100.0, curvature=False)
    assert found.status == "stable up to the largest"
    assert "up to learning rate 100" in str(found)
    assert math.isnan(found.lr)

    found = critical_lr(bowl([1.0], [1.0]), "sgd", smallest=10.0, largest=20.0, curvature=False)
    assert found.status == "unstable at the smallest"

    found = critical_lr(bowl([math.inf], [1.0]), "sgd")
    assert found.status == "loss not finite"
    assert "not finite" in str(found)


@pytest.mark.parametrize("name", sorted(cases.TASKS))
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_finds_a_rise_and_leaves_no_trace(name, optimizer):
    task = cases.TASKS[name](dtype=torch.float64)
    model = task.model(0)
    model.eval()
    next(iter(model.modules())).training = True  # a mode of its own, as users leave them
    live = OptimizerSpec.parse(optimizer).build([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    task.loss_fn(model, task.batches(1)[0]).backward()
    live.step()
    before = everything(model, live, task.train)
    objective = task.objective(model=model, num_batches=2)
    found = critical_lr(objective, live)
    assert everything(model, live, task.train) == before
    assert found.status == "found"
    assert 0 < found.low <= found.lr <= found.high
    # the numbers mean what they say: a batch's loss rises just above its own reading, and not just below
    part = next(objective.each())
    loss, grad = part.loss_and_grad(part.point())
    from lrscope.optimizers.clone import NextStep

    move = NextStep(live, model, part.point(), grad)
    assert part.loss(part.point() + move(found.samples[0] * 1.06)) > loss * (1 - 1e-9)
    assert part.loss(part.point() + move(found.samples[0] / 1.06)) <= loss * (1 + 1e-9)


def test_an_interrupt_leaves_no_trace():
    task = cases.TASKS["batch_norm"]()
    model = task.model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    calls = {"n": 0}

    def loss_fn(m, batch):
        calls["n"] += 1
        if calls["n"] == 4:
            raise KeyboardInterrupt
        return task.loss_fn(m, batch)

    before = everything(model, optimizer, task.train)
    with pytest.raises(KeyboardInterrupt):
        critical_lr(Objective(model, loss_fn, task.batches(2)), optimizer)
    assert calls["n"] == 4
    assert everything(model, optimizer, task.train) == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"smallest": 0.0}, "smallest"),
        ({"smallest": 1.0, "largest": 0.5}, "smallest < largest"),
        ({"tol": 0.0}, "tol"),
        ({"max_forwards": 2}, "max_forwards"),
        ({"optimizer": "adamm"}, "adam"),
    ],
)
def test_bad_input(change, match):
    arguments = {"optimizer": "sgd"} | change
    with pytest.raises(ValueError, match=match):
        critical_lr(bowl([1.0], [1.0]), **arguments)


def test_an_optimizer_of_another_model_is_refused():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(lrs.LrscopeError, match="does not hold the trainable parameter"):
        critical_lr(bowl([1.0], [1.0]), optimizer)
