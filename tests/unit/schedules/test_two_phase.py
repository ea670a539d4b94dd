"""Two phases: the switch against a plain reading of its rule; torch's SGD run by hand beside it."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Constant, Linear, Plateau, TwoPhase


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 0.9, 0.99, 0.5, 0.2, 2.0, -1.0, math.nan, math.inf]), max_size=60),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_the_switch_comes_after_readings_without_improvement(losses, window, patience, improvement):
    two = TwoPhase(1.0, 0.1, window=window, patience=patience, improvement=improvement)
    state, at = two.init(), None
    for step, loss in enumerate(losses):
        before = json.dumps(state)
        new = two.update(state, step, {"loss": loss})
        assert json.dumps(state) == before
        state = json.loads(json.dumps(new))  # plain data
        if at is None and two.value(state, step) == 0.1:
            at = step
    # the same rule, read from the whole history
    groups = [losses[i : i + window] for i in range(0, len(losses) - window + 1, window)]
    readings = [statistics.median(x if math.isfinite(x) else math.inf for x in group) for group in groups]
    best, expected = math.inf, None
    run = 0
    for i, reading in enumerate(readings):
        need = best - improvement * abs(best) if math.isfinite(best) else best
        best, run = (reading, 0) if reading < need else (best, run + 1)
        if run == patience:
            expected = (i + 1) * window - 1
            break
    assert at == expected


def quadratic(seed=0):
    torch.manual_seed(seed)
    theta = torch.nn.Parameter(torch.randn(3, dtype=torch.float64))
    return theta, torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)


@pytest.mark.parametrize(
    "kwargs", [{}, {"nesterov": True}, {"foreach": True}, {"weight_decay": 0.1}, {"fused": True}]
)
@pytest.mark.parametrize("stale", [False, True])
def test_it_is_two_plain_runs_of_sgd_one_after_the_other(kwargs, stale):
    theta, curvature = quadratic()
    optimizer = torch.optim.SGD([theta], lr=1.0, momentum=0.5, **kwargs)
    if stale:  # a velocity from before: no buffer of before may survive the switch
        theta.grad = torch.full_like(theta, 7.0)
        optimizer.step()
    start = theta.detach().clone()
    scheduler = ScheduledLR(optimizer, TwoPhase(0.5, 0.05, switch=0.4, steps=20))
    for _ in range(20):
        theta.grad = curvature * theta.detach()
        optimizer.step()
        scheduler.step()
    other = torch.nn.Parameter(start)
    for lr, momentum, steps in ((0.5, 0.0, 8), (0.05, 0.9, 12)):
        options = kwargs | ({"nesterov": False} if not momentum and "nesterov" in kwargs else {})
        plain = torch.optim.SGD([other], lr=lr, momentum=momentum, **options)
        for _ in range(steps):
            other.grad = curvature * other.detach()
            plain.step()
    assert torch.equal(theta, other)


def test_it_drives_a_key_of_each_kind_and_says_what_it_hears():
    two = TwoPhase(1.0, 0.1)
    scheduler = ScheduledLR(torch.optim.SGD([quadratic()[0]], lr=0.3), two)
    assert scheduler.schedules.keys() == {"lr", "momentum"}
    assert scheduler.listens_to == {"loss"}
    group = scheduler.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.3, 0.0)
    assert not TwoPhase(1.0, 0.1, switch=0.5, steps=9).listens_to
    scaled = ScheduledLR(torch.optim.SGD([quadratic()[0]], lr=0.3), two * Linear(1.0, 0.0, 10))
    assert scaled.schedules.keys() == {"lr", "momentum"}
    scaled.optimizer.step()
    scaled.step()
    assert scaled.optimizer.param_groups[0]["lr"] == pytest.approx(0.27)


def test_a_factor_keeps_what_listens_listening():
    plateau = 0.5 * (Plateau("metric", patience=1) * Constant(0.5))
    state = plateau.init()
    assert plateau.listens_to == {"metric"}
    assert plateau.value(state, 3) == 0.25
    for _ in range(4):
        state = plateau.update(state, 0, {"metric": 1.0})
    assert plateau.value(state, 3) == pytest.approx(0.025)
    assert plateau.feedback == Plateau("metric", patience=1)  # factors are one factor, however they came
    assert plateau.factor(3) == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1), "large must be greater than 0, got 0.0"),
        ((1.0, -1.0), "small must be greater than 0, got -1"),
        ((1.0, 0.1, "platau"), "unknown switch 'platau'; did you mean 'plateau'"),
        ((1.0, 0.1, 0.5), "a share of the run, whose length is not known; give steps="),
        ((1.0, 0.1, 1.5, 10), "a share between 0 and 1, got 1.5"),
        ((1.0, 0.1, "plateau", 10), "a plateau needs none"),
        ((1.0, 0.1, "plateau", None, 1.0), "momentum must be 0 or more and less than 1"),
        ((1.0, 0.1, "plateau", None, 0.9, "loss", 0), "window must be a whole number of observations, 1 or more"),
        ((1.0, 0.1, "plateau", None, 0.9, "loss", 5, 0), "patience must be a whole number of readings, 1 or more"),
        ((1.0, 0.1, "plateau", None, 0.9, "loss", 5, 2, 1.0), "improvement must be 0 or more and less than 1"),
    ],
)
def test_what_cannot_mean_anything_is_refused(arguments, message):
    with pytest.raises(ScheduleError, match=message):
        TwoPhase(*arguments)


def test_an_unheard_metric_is_told():
    with pytest.raises(ScheduleError, match="'val_loss' was not observed; did you mean 'val_los'"):
        TwoPhase(1.0, 0.1, metric="val_loss").update(TwoPhase(1.0, 0.1).init(), 0, {"val_los": 1.0})
