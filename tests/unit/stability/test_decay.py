"""What weight decay adds to the sharpness, against the optimizers of torch themselves."""

import pytest
import torch
from torch import nn

from lrscope.curvature import stability_threshold
from lrscope.errors import MeasurementError
from lrscope.optimizers import GIAdamW
from lrscope.stability import decay_curvature

DOUBLE = torch.float64


def grows(make, lr, *, first, steps=800):
    """Whether the optimizer leaves the minimum of x^2 / 2 (curvature 1) at this learning rate."""
    x = nn.Parameter(torch.ones((), dtype=DOUBLE))
    optimizer = make([x], lr)
    for _ in range(1 if first else steps):
        optimizer.zero_grad()
        (0.5 * x * x).backward()
        optimizer.step()
        if not abs(x.item()) < 1e4:  # before Adam's v notices
            return True
    return not abs(x.item()) <= 1


def is_edge(make, lr, *, first):
    """Whether the optimizer grows just above this learning rate and not just below."""
    return grows(make, 1.01 * lr, first=first) and not grows(make, 0.99 * lr, first=first)


SGD = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("name", SGD)
@pytest.mark.parametrize("step", ["first", "late"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 2.0])
def test_the_largest_stable_rate_of_sgd_with_decay(name, step, decay):
    def make(params, lr):
        return torch.optim.SGD(params, lr=lr, weight_decay=decay, **SGD[name])

    optimizer = make([nn.Parameter(torch.ones(()))], 1.0)
    added = decay_curvature(optimizer, step)
    assert added == decay
    expected = stability_threshold(optimizer, step) / (1 + added)
    assert is_edge(make, expected, first=step == "first")


@pytest.mark.parametrize("decay", [0.0, 0.004, 0.02])
def test_the_largest_stable_rate_of_adamw_late(decay):
    """beta2 = 1 freezes v at 1, so the curvature 1 is 1 preconditioned."""

    def make(params, lr):
        optimizer = torch.optim.AdamW(params, lr=lr, eps=0.0, betas=(0.9, 1 - 1e-13), weight_decay=decay)
        (x,) = params
        optimizer.state[x] = {
            "step": torch.tensor(1e15, dtype=DOUBLE),
            "exp_avg": torch.zeros_like(x),
            "exp_avg_sq": torch.ones_like(x),
        }
        return optimizer

    added = decay_curvature(make([nn.Parameter(torch.ones(()))], 1.0))
    assert added == pytest.approx(19 * decay)
    assert is_edge(make, 38 / (1 + added), first=False)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, GIAdamW])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_largest_stable_rate_of_adamws_first_step(kind, decay):
    def make(params, lr):
        return kind(params, lr=lr, weight_decay=decay)

    added = decay_curvature(make([nn.Parameter(torch.ones(()))], 1.0), "first")
    assert added == pytest.approx(10 * decay)
    # At x = 1, g = 1 Adam's preconditioned curvature is 10; GI-Adam starts v at g^2, which its correction inflates.
    sharpness = 10.0 if kind is torch.optim.AdamW else 10.0 * 0.001**0.5
    assert is_edge(make, 20 / (sharpness + added), first=True)


def test_decay_that_is_no_single_number_is_refused():
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [a], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}]
    with pytest.raises(MeasurementError, match="differ in weight decay"):
        decay_curvature(torch.optim.SGD(groups, lr=0.1))

    def rates():
        return [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}]

    with pytest.raises(MeasurementError, match="learning rate"):
        decay_curvature(torch.optim.AdamW(rates()))
    assert decay_curvature(torch.optim.SGD(rates())) == 0.0
    for coupled in (torch.optim.Adam([a], weight_decay=0.1), torch.optim.RMSprop([a], weight_decay=0.1)):
        with pytest.raises(MeasurementError, match="preconditioner"):
            decay_curvature(coupled)
    with pytest.raises(MeasurementError, match="Adagrad"):
        decay_curvature(torch.optim.Adagrad([a]))
    with pytest.raises(ValueError, match="step"):
        decay_curvature(torch.optim.SGD([a], lr=1), "middle")  # type: ignore[arg-type]
