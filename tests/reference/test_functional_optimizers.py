"""The stacked update rules against the torch optimizers that define them: torch's own, and GI-Adam and its family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.optimizers import FunctionalOptimizer, OptimizerSpec

SIZES = [(3, 4), (5,), ()]
P = sum(torch.Size(s).numel() for s in SIZES)
N = 3


def losses(name, vectors):
    """Losses of stacked vectors (N, P) -> (N,): a bowl with minimum away from 0, a curved valley, and a noisy one."""
    scale = torch.linspace(0.1, 3.0, P, dtype=torch.float64)
    if name == "bowl":
        return 0.5 * (scale * (vectors - 1) ** 2).sum(-1)
    if name == "valley":
        x, y = vectors[..., :-1], vectors[..., 1:]
        return ((1 - x).square() + 5 * (y - x.square()).square()).sum(-1) / P
    return (vectors.sin() * scale).sum(-1) + 0.05 * vectors.square().sum(-1)


def rates(step, n=N):
    """A different schedule for each replica, with a step of rate zero, as at the start of a warmup."""
    return torch.tensor([[0.002 * (i + 1) * min(step, 20) / 20] for i in range(n)], dtype=torch.float64)


def functional(spec, name, steps, dtype=torch.float64):
    theta = start().to(dtype)
    rule = FunctionalOptimizer(spec)
    state = rule.init(theta)
    for step in range(steps):
        leaf = theta.detach().requires_grad_()
        (grad,) = torch.autograd.grad(losses(name, leaf).sum(), leaf)
        rule.update(theta, grad, rates(step).to(dtype), state)
    return theta


def by_torch(spec, name, steps):
    """The same, one replica at a time, over separate parameters of a torch optimizer."""
    rows = []
    for i, row in enumerate(start()):
        params = [torch.nn.Parameter(p.view(s)) for p, s in zip(row.split(lengths()), SIZES, strict=True)]
        optimizer = spec.build(params, lr=1.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = float(rates(step)[i])
            optimizer.zero_grad()
            losses(name, torch.cat([p.reshape(-1) for p in params])).backward()
            optimizer.step()
        rows.append(torch.cat([p.detach().reshape(-1) for p in params]))
    return torch.stack(rows)


def lengths():
    return [torch.Size(s).numel() for s in SIZES]


def start():
    return torch.randn(N, P, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul_(0.5)


@pytest.mark.parametrize("name", ["bowl", "valley", "waves"])
@pytest.mark.parametrize(
    "text",
    [
        "sgd",
        "sgd(momentum=0)",
        "sgd(momentum=0, weight_decay=0.1)",
        "sgd(nesterov=True, weight_decay=0.01)",
        "sgd(momentum=0.8, dampening=0.3)",
        "adam",
        "adam(weight_decay=0.1, betas=(0.8, 0.99))",
        "adamw",
        "adamw(weight_decay=0.2, betas=(0.0, 0.95), eps=1e-3)",
        "giadam",
        "giadam(weight_decay=0.1, betas=(0.8, 0.99))",
        "giadamw",
        "giadamw(weight_decay=0.2, betas=(0.0, 0.95), eps=1e-3)",
        "riadam",
        "riadam(seed=3, weight_decay=0.1)",
        "radam",
        "radam(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)",
    ],
)
def test_two_hundred_steps_are_those_of_torch(text, name):
    spec = OptimizerSpec.parse(text)
    torch.testing.assert_close(functional(spec, name, 200), by_torch(spec, name, 200), rtol=1e-12, atol=1e-12)


weights = st.floats(0, 0.5)
sgd = st.builds(
    lambda momentum, dampening, nesterov, weight_decay: OptimizerSpec(
        "sgd",
        momentum=momentum,
        dampening=0.0 if nesterov and momentum else dampening,
        nesterov=bool(nesterov and momentum),
        weight_decay=weight_decay,
    ),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    st.floats(0, 0.9),
    st.booleans(),
    weights,
)
adam = st.builds(
    lambda name, b1, b2, eps, weight_decay: OptimizerSpec(name, betas=(b1, b2), eps=eps, weight_decay=weight_decay),
    st.sampled_from(["adam", "adamw", "giadam", "giadamw", "riadam", "radam"]),
    st.floats(0, 0.95),
    st.floats(0.5, 0.999),
    st.sampled_from([1e-8, 1e-4, 0.1]),
    weights,
)


@given(spec=sgd | adam)
@settings(max_examples=40, deadline=None)
def test_any_options_give_the_steps_of_torch(spec):
    torch.testing.assert_close(functional(spec, "bowl", 12), by_torch(spec, "bowl", 12), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("text", ["sgd(nesterov=True)", "adamw", "giadamw", "radam"])
def test_in_single_precision_the_path_is_the_same_to_rounding(text):
    spec = OptimizerSpec.parse(text)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(
        functional(spec, "bowl", 50, torch.float32).double(), by_torch(spec, "bowl", 50), **close
    )


@pytest.mark.parametrize("text", ["sgd", "sgd(momentum=0)", "adam", "giadam", "riadam"])
def test_dropping_a_replica_leaves_the_others_on_their_path(text):
    spec = OptimizerSpec.parse(text)
    rule, theta = FunctionalOptimizer(spec), start()
    state = rule.init(theta)
    rows = torch.arange(N)
    for step in range(30):
        if step in (0, 10):  # before the first update there may be no state yet
            kept = torch.tensor([0, 2] if step == 0 else [1])
            rows, theta, state = rows[kept], theta[kept], state.keep(kept)
        leaf = theta.detach().requires_grad_()
        (grad,) = torch.autograd.grad(losses("bowl", leaf).sum(), leaf)
        rule.update(theta, grad, rates(step)[rows], state)
    torch.testing.assert_close(theta[0], functional(spec, "bowl", 30)[2], rtol=1e-13, atol=0)
