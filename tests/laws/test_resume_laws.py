"""Resume: stopped anywhere, restored in any order, any schedule goes on to the bit."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrscope.optimizers import ScheduledLR
from schedule_cases import any_schedule, finite

LENGTH = 9
ORDERS = [
    o for o in itertools.permutations(("build", "optimizer", "scheduler")) if o.index("build") < o.index("scheduler")
]
"""The optimizer may be restored before the scheduler is built, and that is where torch goes wrong."""


def optimizer(groups, *, tensor_lr, late=0):
    def group(i):
        lr = torch.tensor(0.1 * (i + 1), dtype=torch.float64) if tensor_lr else 0.1 * (i + 1)
        return {"params": [torch.zeros(1, requires_grad=True)], "lr": lr, "weight_decay": 0.3, "name": f"g{i}"}

    return torch.optim.SGD([group(i) for i in range(groups + late)], lr=1.0), group


def values(opt):
    """What the next update would use, to the bit."""
    return [(float(g["lr"]).hex(), float(g["weight_decay"]).hex()) for g in opt.param_groups]


def plain(state):
    """As a checkpoint carries it: no object of ours, no tensor shared with the run that goes on."""
    if isinstance(state, dict):
        return {k: plain(v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(plain(v) for v in state)
    return state.clone() if isinstance(state, torch.Tensor) else state


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    s=any_schedule,
    w=finite,
    stop=st.integers(0, LENGTH - 1),
    order=st.sampled_from(ORDERS),
    groups=st.integers(1, 3),
    late_at=st.none() | st.integers(0, LENGTH - 1),
    tensor_lr=st.booleans(),
    own_clock=st.booleans(),
    between=st.booleans(),
)
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_bit(
    s, w, stop, order, groups, late_at, tensor_lr, own_clock, between
):
    """``between``: the checkpoint falls between ``optimizer.step()`` and ``scheduler.step()``."""
    drives, single = {"lr": s, "weight_decay": w}, {"g0": w}

    def build(opt):
        scheduler = ScheduledLR(opt, drives, groups=single, own_clock=own_clock)
        used = []
        opt.register_step_pre_hook(lambda *_: used.append(values(opt)))  # what the update itself uses
        return scheduler, used

    def state(opt, scheduler):
        return plain({"optimizer": opt.state_dict(), "scheduler": scheduler.state_dict()})

    opt, group = optimizer(groups, tensor_lr=tensor_lr)
    scheduler, whole = build(opt)
    for t in range(LENGTH):
        if t == late_at:
            opt.add_param_group(group(groups))
        if t == stop and not between:
            saved = state(opt, scheduler)
        opt.step()
        if t == stop and between:
            saved = state(opt, scheduler)
        scheduler.step()

    joined = late_at is not None and late_at <= stop  # its group is in the checkpoint
    resumed, group = optimizer(groups, tensor_lr=tensor_lr, late=joined)
    for what in order:
        if what == "build":
            scheduler, rest = build(resumed)
        else:
            (resumed if what == "optimizer" else scheduler).load_state_dict(saved[what])
    for t in range(stop + between, LENGTH):
        if t == late_at and not joined:
            resumed.add_param_group(group(groups))
        resumed.step()
        scheduler.step()
    assert rest == whole[stop + between :]
    assert scheduler.last_epoch == LENGTH
    assert values(resumed) == values(opt) or stop + between == LENGTH  # then no update has asked for them yet
