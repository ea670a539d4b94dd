"""Our closed forms against torch's own schedulers, step by step, over the range in which torch is right."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as tl

from lrscope import schedules as lrs
from lrscope.optimizers import ScheduledLR

N = 20


def optimizer(lr=0.1):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def lrs_of(opt, scheduler, count=N):
    seen = []
    for _ in range(count):
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return np.array(seen, dtype=float)


CASES = {
    "constant": (lambda o: tl.ConstantLR(o, factor=1.0, total_iters=0), lrs.Constant(1.0)),
    "linear": (lambda o: tl.LinearLR(o, 1 / 3, 1.0, total_iters=8), lrs.Linear(1 / 3, 1.0, 8)),
    "linear decay": (lambda o: tl.LinearLR(o, 1.0, 0.1, total_iters=8), lrs.Linear(1.0, 0.1, 8)),
    "cosine": (lambda o: tl.CosineAnnealingLR(o, T_max=N), lrs.Cosine(1.0, 0.0, N)),
    "cosine with a floor": (lambda o: tl.CosineAnnealingLR(o, T_max=N, eta_min=0.01), lrs.Cosine(1.0, 0.1, N)),
    "polynomial": (lambda o: tl.PolynomialLR(o, total_iters=12, power=2.0), lrs.Polynomial(1.0, 0.0, 12, 2.0)),
    "exponential": (lambda o: tl.ExponentialLR(o, gamma=0.9), lrs.Exponential(1.0, 0.9**N, N)),
    "multi step": (lambda o: tl.MultiStepLR(o, [3, 9], gamma=0.1), lrs.Piecewise((1.0, 0.1, 0.01), (3, 9))),
    "step": (lambda o: tl.StepLR(o, 5, gamma=0.5), lrs.Piecewise((1, 0.5, 0.25, 0.125), (5, 10, 15))),
    "lambda": (lambda o: tl.LambdaLR(o, lambda t: (1 + t / 4) ** -0.5), lrs.InverseSqrt(1.0, 4)),
    "one cycle": (
        lambda o: tl.OneCycleLR(o, 0.1, total_steps=N + 1, pct_start=6 / (N + 1), final_div_factor=100),
        lrs.Cosine(1 / 25, 1.0, 5).then(lrs.Cosine(1.0, 1 / 2500, N - 5)),
    ),
    "warmup then cosine": (
        lambda o: tl.SequentialLR(
            o, [tl.LinearLR(o, 0.1, 1.0, total_iters=5), tl.CosineAnnealingLR(o, T_max=15)], milestones=[5]
        ),
        lrs.Linear(0.1, 1.0, 5).then(lrs.Cosine(1.0, 0.0, 15)),
    ),
    "chained": (
        lambda o: tl.ChainedScheduler([tl.LinearLR(o, 0.1, 1.0, total_iters=5), tl.ExponentialLR(o, 0.9)], o),
        lrs.Linear(0.1, 1.0, 5) * lrs.Exponential(1.0, 0.9**N, N),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_closed_form_is_torchs_series(name):
    theirs, ours = CASES[name]
    reference, opt = optimizer(), optimizer()
    expected = lrs_of(reference, theirs(reference))
    assert np.allclose(lrs_of(opt, ScheduledLR(opt, ours)), expected, rtol=1e-12, atol=1e-17)
    assert np.allclose(0.1 * ours.values(N), expected, rtol=1e-12, atol=1e-17)


def test_no_drift_over_many_steps():
    ours = lrs.Cosine(1.0, 0.0, 100_000)
    t = np.array([0, 1, 49_999, 50_000, 99_999])
    exact = [float(torch.cos(torch.tensor(np.pi * k / 100_000, dtype=torch.float64)) + 1) / 2 for k in t]
    assert np.allclose(ours.values()[t], exact, rtol=1e-9)
    assert [ours(int(k)) for k in t] == ours.values()[t].tolist()


def test_warmup_then_inverse_sqrt_is_the_transformers_shape():
    w, n = 4, 30
    ours = lrs.warmup(w).then(lrs.InverseSqrt(1.0, w)).values(n)
    theirs = [t / w if t < w else 1 / np.sqrt(t / w) for t in range(n)]
    assert np.allclose(ours, theirs, rtol=1e-14)
