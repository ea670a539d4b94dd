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
from lrscope.stability import CriticalLR, critical_lr


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


def two_rates(lr):
    """x and y at rates of 1 to 100, both of curvature 1."""
    model = nn.ParameterDict({k: nn.Parameter(torch.ones((), dtype=torch.float64)) for k in "xy"})
    objective = Objective(model, lambda m, b: b.mean() * (m["x"] ** 2 + m["y"] ** 2) / 2, [torch.ones(2).double()])
    groups = [{"params": [model["x"]], "lr": 0.001 * lr}, {"params": [model["y"]], "lr": 0.1 * lr}]
    return objective, torch.optim.SGD(groups, lr=1.0)


@pytest.mark.parametrize("scheduler", [lambda o: lrs.ScheduledLR(o, lrs.schedules.warmup(10)), "LambdaLR"])
def test_group_ratios_survive_a_warmup_that_starts_at_zero(scheduler):
    objective, optimizer = two_rates(1.0)
    before = critical_lr(objective, optimizer, tol=0.01)
    assert before.lr == pytest.approx(2 * (1 + 100) / (1 + 100**2), rel=0.01)
    if scheduler == "LambdaLR":
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    else:
        scheduler(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    at_zero = critical_lr(objective, optimizer, tol=0.01)
    assert (at_zero.lr, at_zero.two_over_sharpness) == (before.lr, pytest.approx(before.two_over_sharpness))


def test_ratios_that_cannot_be_told_are_refused():
    objective, optimizer = two_rates(0.0)
    with pytest.raises(lrs.MeasurementError, match="all 2 groups are at learning rate 0"):
        critical_lr(objective, optimizer)
    alone = torch.optim.SGD(objective.model.parameters(), lr=0.0)
    assert critical_lr(objective, alone, tol=0.01).lr == pytest.approx(2.0, rel=0.01)


def test_a_first_group_at_rate_zero_does_not_move():
    objective, optimizer = two_rates(1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    # only y moves: L(lr) = (1 + (1 - lr)^2) / 2
    found = critical_lr(objective, optimizer, tol=0.01)
    assert found.lr == pytest.approx(2.0, rel=0.01)
    assert found.two_over_sharpness == pytest.approx(2.0, rel=0.01)


def test_where_nothing_was_tried_the_status_says_so():
    found = critical_lr(bowl([1.0], [0.0]), "sgd")
    assert (found.status, found.cost.forwards) == ("zero gradient", 0)
    assert "gradient is zero" in str(found)

    objective = bowl([1.0], [1.0])
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[objective.model.x] = {"momentum_buffer": torch.tensor([-10.0], dtype=torch.float64)}
    found = critical_lr(objective, optimizer)
    assert (found.status, found.cost.forwards) == ("momentum points uphill", 0)
    assert "uphill" in str(found)
    assert "tried" not in str(found)
    assert math.isnan(found.lr)

    later = CriticalLR(math.nan, math.nan, math.nan, "of a later version")  # type: ignore[arg-type]
    assert "of a later version" in str(later)


@pytest.mark.parametrize(
    ("make", "growth"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 1.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 10.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 1 / (1 - 0.81)),
        (lambda p: torch.optim.AdamW(p, lr=0.1), 1.0),
    ],
)
def test_the_sentence_warns_where_later_steps_of_the_same_rate_are_longer(make, growth):
    objective = bowl([1.0, 3.0], [1.0, -2.0])
    optimizer = make(list(objective.model.parameters()))
    found = critical_lr(objective, optimizer)
    assert found.growth == pytest.approx(growth)
    warned = f"up to {growth:.3g} times as long, so begin nearer to {found.lr / growth:.3g}" in str(found)
    assert warned == (growth > 1)
    bowl_loss(objective.model, objective.batches[0]).backward()
    for _ in range(3):
        optimizer.step()
    assert critical_lr(objective, optimizer).growth == pytest.approx(1.0)  # what has built up is in the step tried


class Own(torch.optim.Optimizer):
    """Gradient descent with attributes of its own, one of which its step changes and one of which holds parameters."""

    def __init__(self, params, lr, k):
        super().__init__(params, {"lr": lr})
        self.k, self.seen = k, []
        self.mine = [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.mine:
            self.seen.append(1)
            self.state[p].setdefault("sums", [torch.zeros_like(p)])[0] += p.grad
            p -= self.param_groups[0]["lr"] * self.k * p.grad


def test_an_optimizer_with_attributes_of_its_own():
    objective = bowl([1.0], [1.0])
    optimizer = Own(objective.model.parameters(), 0.1, k=4.0)
    optimizer.zero_grad()
    bowl_loss(objective.model, objective.batches[0]).backward()
    optimizer.step()
    before = everything(objective.model, optimizer)
    assert critical_lr(objective, optimizer, tol=0.01).lr == pytest.approx(0.5, rel=0.01)
    assert everything(objective.model, optimizer) == before
    assert optimizer.seen == [1]
    assert torch.equal(optimizer.state[objective.model.x]["sums"][0], objective.model.x.grad)


class Wrapper(torch.optim.Optimizer):
    """Another optimizer inside, whose groups and state it shows as its own."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    param_groups = property(
        lambda self: self.inner.param_groups, lambda self, v: setattr(self.inner, "param_groups", v)
    )
    state = property(lambda self: self.inner.state, lambda self, v: setattr(self.inner, "state", v))

    def step(self, closure=None):
        self.inner.step()


def test_a_wrapped_optimizer_steps_once_and_is_left_alone():
    objective = bowl([1.0], [1.0])
    inner = torch.optim.SGD(objective.model.parameters(), lr=0.1, momentum=0.9)
    before = everything(objective.model, inner)
    assert critical_lr(objective, Wrapper(inner), tol=0.01, curvature=False).lr == pytest.approx(2.0, rel=0.01)
    assert everything(objective.model, inner) == before
    assert inner.param_groups[0]["params"] == [objective.model.x]


def test_hooks_and_a_patched_step_are_not_copied():
    objective = bowl([1.0], [1.0])
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("hook"))
    step = optimizer.step
    optimizer.step = lambda *a: (calls.append("patch"), step(*a))
    assert critical_lr(objective, optimizer, tol=0.01).lr == pytest.approx(2.0, rel=0.01)
    assert calls == []


class Failing(torch.optim.SGD):
    def step(self, closure=None):
        raise AssertionError("call first_step() before")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda params: Failing(params, lr=0.1), r"Failing\.step fails on a copy .*call first_step\(\) before"),
        (lambda params: torch.optim.LBFGS(params), r"LBFGS\.step needs a closure"),
        (lambda params: torch.optim.SparseAdam(params), r"SparseAdam\.step fails on a copy .*dense gradients"),
    ],
)
def test_a_step_that_cannot_be_tried_is_explained(make, match):
    objective = bowl([1.0], [1.0])
    with pytest.raises(lrs.MeasurementError, match=match):
        critical_lr(objective, make(list(objective.model.parameters())))


def test_a_model_is_no_objective():
    with pytest.raises(TypeError, match=r"objective: .* got Linear; .*Objective\(model, loss_fn, \[batch\]\)"):
        critical_lr(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_losses_without_a_dense_gradient_are_refused_in_words():
    detached = Objective(nn.Linear(1, 1), lambda m, b: m(b).mean().detach(), [torch.ones(2, 1)])
    with pytest.raises(lrs.MeasurementError, match="the loss has no gradient"):
        critical_lr(detached)
    sparse = Objective(nn.Embedding(4, 2, sparse=True), lambda m, b: m(b).square().mean(), [torch.arange(3)])
    with pytest.raises(lrs.MeasurementError, match="sparse=False"):
        critical_lr(sparse)


def test_the_cost_counts_every_batch_and_the_time():
    objective = bowl([1.0], [1.0], scales=(1.0, math.inf, 1.0))
    found = critical_lr(objective, "sgd")
    assert found.status == "found"
    assert found.cost.gradients == 3 + 3  # one for each batch, and the one that curvature would be measured with
    assert found.cost.seconds > 0


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.3), "SGD"),
        (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True), "SGD(momentum=0.9, nesterov=True)"),
        (lambda p: torch.optim.AdamW(p, betas=(0.9, 0.95), foreach=False), "AdamW(betas=(0.9, 0.95))"),
        (lambda p: torch.optim.SGD([{"params": p, "momentum": 0.5}], lr=1.0), "SGD(momentum=0.5)"),
        (lambda p: Own(p, 0.1, k=2.0), "Own"),
    ],
)
def test_the_label_of_a_live_optimizer_tells_its_settings(make, label):
    objective = bowl([1.0], [1.0])
    assert critical_lr(objective, make(list(objective.model.parameters())), curvature=False).optimizer == label
