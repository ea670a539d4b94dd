"""The stacked update rules against the torch optimizers that define them: torch's own, and GI-Adam and its family."""

from dataclasses import replace

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


MIXED = {
    "sgd": ["sgd", "sgd(momentum=0, dampening=0.5)", "sgd(momentum=0.5, dampening=0.3, weight_decay=0.1)"],
    "sgd, nesterov": [
        "sgd(nesterov=True, momentum=0.5)",
        "sgd(nesterov=True, weight_decay=0.2)",
        "sgd(nesterov=True)",
    ],
    "adam": ["adam", "adam(betas=(0.0, 0.9))", "adam(betas=(0.9, 0.5), eps=1e-2, weight_decay=0.1)"],
    "adamw": ["adamw", "adamw(weight_decay=0)", "adamw(betas=(0.5, 0.95), eps=1e-4, weight_decay=0.3)"],
    "giadam": ["giadam", "giadam(betas=(0.0, 0.9))", "giadam(eps=1e-2, weight_decay=0.1)"],
    "giadamw": ["giadamw", "giadamw(betas=(0.6, 0.9))", "giadamw(weight_decay=0.3)"],
    "riadam": ["riadam", "riadam(seed=3)", "riadam(seed=3, betas=(0.5, 0.9), weight_decay=0.1)"],
    # Their second moments become certain at different steps, and one never does (5 = 2 / (1 - beta2) - 1).
    "radam": ["radam", "radam(betas=(0.8, 0.9), eps=1e-3)", "radam(betas=(0.9, 0.6), weight_decay=0.1)"],
}


@pytest.mark.parametrize("name", ["bowl", "waves"])
@pytest.mark.parametrize("rule", MIXED)
def test_replicas_with_numbers_of_their_own_take_the_steps_each_takes_alone(rule, name):
    specs = [OptimizerSpec.parse(text) for text in MIXED[rule]]
    alone = torch.stack([by_torch(spec, name, 200)[i] for i, spec in enumerate(specs)])
    torch.testing.assert_close(functional(specs, name, 200), alone, rtol=1e-11, atol=1e-12)


@given(specs=st.one_of(*[st.lists(kind, min_size=N, max_size=N) for kind in (sgd, adam)]))
@settings(max_examples=40, deadline=None)
def test_any_numbers_may_differ(specs):
    first = specs[0]
    if first.name != "sgd":
        specs = [OptimizerSpec(first.name, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay) for s in specs]
    specs = [replace(s, **switch(first)) for s in specs]
    alone = torch.stack([by_torch(spec, "bowl", 12)[i] for i, spec in enumerate(specs)])
    torch.testing.assert_close(functional(specs, "bowl", 12), alone, rtol=1e-10, atol=1e-11)


def switch(spec):
    """What makes other SGDs share the nesterov of ``spec``; nothing for rules without it."""
    if spec.name != "sgd":
        return {}
    return {"nesterov": True, "dampening": 0.0, "momentum": 0.7} if spec.nesterov else {"nesterov": False}


@pytest.mark.parametrize("rule", MIXED)
def test_a_dropped_replica_takes_its_numbers_along(rule):
    specs = [OptimizerSpec.parse(text) for text in MIXED[rule]]
    theta, rows = start(), torch.tensor([2, 0])
    both, some = FunctionalOptimizer(specs), FunctionalOptimizer(specs).keep(rows)
    states = both.init(theta), both.init(theta).keep(rows)
    kept = theta[rows]
    for step in range(8):
        grad = torch.sin(theta + step)
        some.update(kept, grad[rows], rates(step)[rows], states[1])
        both.update(theta, grad, rates(step), states[0])
    torch.testing.assert_close(kept, theta[rows], rtol=1e-13, atol=0)


def test_low_precision_parameters_do_not_round_the_numbers():
    """0.999 is 1 in bfloat16; then the second moment would stay 0."""
    theta = torch.zeros(2, 4, dtype=torch.bfloat16)
    rule = FunctionalOptimizer([OptimizerSpec("adam"), OptimizerSpec("adam", betas=(0.9, 0.998))])
    state = rule.init(theta)
    rule.update(theta, torch.ones_like(theta), torch.full((2, 1), 0.01), state)
    torch.testing.assert_close(state.second.float()[:, 0], torch.tensor([0.001, 0.002]), rtol=1e-2, atol=0)
    torch.testing.assert_close(theta.float(), torch.full((2, 4), -0.01), rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    "texts", [[], ["sgd", "adam"], ["sgd", "sgd(nesterov=True)"]], ids=["none", "rules", "nesterov"]
)
def test_replicas_share_one_rule(texts):
    with pytest.raises(ValueError, match="replicas share one rule"):
        FunctionalOptimizer([OptimizerSpec.parse(text) for text in texts])
