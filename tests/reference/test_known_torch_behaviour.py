"""What torch's schedulers do that surprises their users, and what ours do instead.

Each test holds both sides. Where torch's side fails after an upgrade, torch has changed: update docs/from_torch.md.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as tl

from lrscope import schedules as lrs
from lrscope.adapters.torch_schedulers import from_torch
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR


def optimizer(lr=1.0):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def rate(opt):
    return float(opt.param_groups[0]["lr"])


def run(opt, scheduler, count):
    """The rates of ``count`` updates."""
    seen = []
    for _ in range(count):
        seen.append(rate(opt))
        opt.step()
        scheduler.step()
    return seen


def in_sequence(opt, last_epoch=-1):
    parts = [tl.LinearLR(opt, 0.1, total_iters=3), tl.CosineAnnealingLR(opt, 7)]
    return tl.SequentialLR(opt, parts, [3], last_epoch=last_epoch)


OURS = lrs.warmup(3, 0.1).then(lrs.Cosine(1.0, 0.0, 7))


@pytest.fixture
def saved():
    """Checkpoints after 5 updates, and the right rates of the other 5."""
    both = []
    for build in (in_sequence, lambda o: ScheduledLR(o, OURS)):
        opt = optimizer()
        run(opt, scheduler := build(opt), 5)
        both.append((copy.deepcopy(opt.state_dict()), copy.deepcopy(scheduler.state_dict())))
    return *both, OURS.values()[5:]


def test_sequence_restored_after_the_optimizer_goes_on_from_its_first_rate(saved):
    (of_optimizer, of_scheduler), _, right = saved
    opt = optimizer()
    opt.load_state_dict(of_optimizer)
    scheduler = in_sequence(opt)  # writes its first rate over the restored one
    scheduler.load_state_dict(of_scheduler)
    np.testing.assert_allclose(run(opt, scheduler, 5), 0.1 * right / right[0], rtol=1e-12)


def test_sequence_built_before_the_optimizer_is_restored_is_right(saved):
    (of_optimizer, of_scheduler), _, right = saved
    opt = optimizer()
    scheduler = in_sequence(opt)
    opt.load_state_dict(of_optimizer)
    scheduler.load_state_dict(of_scheduler)
    np.testing.assert_allclose(run(opt, scheduler, 5), right, rtol=1e-12)


def test_sequence_rebuilt_at_its_last_epoch_is_wrong(saved):
    (of_optimizer, _), _, right = saved
    opt = optimizer()
    opt.load_state_dict(of_optimizer)
    theirs = run(opt, in_sequence(opt, last_epoch=5), 5)
    assert max(theirs) < 0.2
    assert right[0] > 0.8


@pytest.mark.parametrize("order", ["osl", "sol", "slo", "sl", "ob"])
def test_ours_is_right_in_every_order(saved, order):
    _, (of_optimizer, of_scheduler), right = saved
    opt = optimizer()
    scheduler = None
    for action in order:
        if action == "o":
            opt.load_state_dict(copy.deepcopy(of_optimizer))
        elif action == "s":
            scheduler = ScheduledLR(opt, OURS)
        elif action == "b":  # as torch has it: built at the epoch before the one to start with
            scheduler = ScheduledLR(opt, OURS, last_epoch=4)
        elif action == "l":
            scheduler.load_state_dict(of_scheduler)
    assert run(opt, scheduler, 5) == list(right)


@pytest.mark.filterwarnings("ignore:Detected call")
def test_nested_sequences_are_shifted_and_ours_are_not():
    def parts(o):
        return tl.LinearLR(o, 0.25, total_iters=3), tl.ConstantLR(o, 0.5, 100), tl.ConstantLR(o, 0.125, 100)

    flat, nest = optimizer(), optimizer()
    right = run(flat, tl.SequentialLR(flat, list(parts(flat)), [3, 6]), 8)
    a, b, c = parts(nest)
    nested = run(nest, tl.SequentialLR(nest, [tl.SequentialLR(nest, [a, b], [3]), c], [6]), 8)
    assert right == [0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.125, 0.125]
    assert nested[2] == 0.5  # one step early
    x, y, z = lrs.warmup(3, 0.25), lrs.Constant(0.5, 3), lrs.Constant(0.125)
    assert x.then(y).then(z) == x.then(y.then(z))
    assert x.then(y).then(z).values(8).tolist() == right


def test_a_sequence_from_milestone_zero_is_right_in_both():
    opt = optimizer()
    scheduler = tl.SequentialLR(opt, [tl.ConstantLR(opt, 0.1, 5), tl.ExponentialLR(opt, 0.5)], [0])
    assert from_torch(scheduler).only() == lrs.StepDecay(0.5)
    assert run(opt, scheduler, 4) == [1, 0.5, 0.25, 0.125]
    assert lrs.Linear(0.1, 1.0, 0).then(lrs.StepDecay(0.5)).values(4).tolist() == [1, 0.5, 0.25, 0.125]


def test_tensor_rates_are_not_aliased_in_either():
    for build in (in_sequence, lambda o: ScheduledLR(o, OURS)):
        opt = optimizer()
        lr = opt.param_groups[0]["lr"] = torch.tensor(1.0, dtype=torch.float64)
        np.testing.assert_allclose(run(opt, build(opt), 10), OURS.values(), rtol=1e-9, atol=1e-12)
        assert opt.param_groups[0]["lr"] is lr
        assert float(opt.param_groups[0]["initial_lr"]) == 1.0


def test_building_two_schedulers():
    opt = optimizer()
    tl.ConstantLR(opt, 0.5, 5)
    second = tl.ConstantLR(opt, 0.5, 5)
    assert rate(opt) == 0.25  # each multiplies what it found
    assert run(opt, second, 6)[-1] == 0.5  # and the base rate never comes back

    opt = optimizer()
    ours = lrs.Constant(0.5, 5).then(1.0)
    ScheduledLR(opt, ours)
    second = ScheduledLR(opt, ours)
    assert rate(opt) == 0.5
    assert run(opt, second, 6)[-1] == 1.0


def test_cosine_annealing_climbs_again_and_cosine_stays_down():
    opt = optimizer()
    np.testing.assert_allclose(
        run(opt, tl.CosineAnnealingLR(opt, 3), 8), [1, 0.75, 0.25, 0, 0.25, 0.75, 1, 0.75], atol=1e-15
    )
    np.testing.assert_allclose(lrs.Cosine(1.0, 0.0, 3).values(8), [1, 0.75, 0.25, 0, 0, 0, 0, 0], atol=1e-15)


def test_warm_restarts_never_reach_their_floor_unless_they_end():
    opt = optimizer()
    scheduler = tl.CosineAnnealingWarmRestarts(opt, 4)
    read = from_torch(scheduler).only()
    assert min(run(opt, scheduler, 50)) == pytest.approx(0.14644660940672627, rel=1e-12)
    assert min(read.values(50)) == pytest.approx(0.14644660940672627, rel=1e-12)
    ended = read.first(8).then(0.0)
    assert ended(7) == pytest.approx(0.146, abs=1e-3)
    assert ended(8) == 0.0


def late_group(opt):
    opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0})


def test_a_group_added_later():
    opt = optimizer()
    scheduler = tl.LinearLR(opt, 0.1, total_iters=6)
    run(opt, scheduler, 2)
    late_group(opt)
    run(opt, scheduler, 10)
    assert opt.param_groups[1]["lr"] > 1.5  # above its own rate, for good

    opt = optimizer()
    scheduler = tl.LambdaLR(opt, lambda t: 0.9**t)
    late_group(opt)
    opt.step()
    with pytest.raises(ValueError, match="zip"):
        scheduler.step()

    opt = optimizer()
    scheduler = ScheduledLR(opt, lrs.warmup(6, 0.1))
    run(opt, scheduler, 2)
    late_group(opt)
    run(opt, scheduler, 1)
    assert opt.param_groups[1]["lr"] == rate(opt) == lrs.warmup(6, 0.1)(3)
    run(opt, scheduler, 10)
    assert opt.param_groups[1]["lr"] == 1.0


def test_one_cycle_one_step_too_many():
    def cycle(o):
        return tl.OneCycleLR(o, 1.0, 10, cycle_momentum=False)

    opt = optimizer()
    scheduler = cycle(opt)
    run(opt, scheduler, 10)
    assert rate(opt) > 4e-6  # already past its end, and climbing again
    opt.step()
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        scheduler.step()

    opt = optimizer()
    ours = from_torch(cycle(opt)).run(opt)
    assert run(opt, ours, 12)[9:] == pytest.approx([4e-6] * 3, rel=1e-9)


def test_recursion_drifts_with_tensor_rates_and_a_function_of_the_step_does_not():
    steps = 3000

    def worst(scheduler, opt, right):
        seen = np.array(run(opt, scheduler, steps))
        return np.max(np.abs(seen / right - 1))

    right = lrs.StepDecay(0.999).values(steps)
    errors = {}
    for name, build in {
        "torch": lambda o: tl.ExponentialLR(o, 0.999),
        "ours": lambda o: ScheduledLR(o, lrs.StepDecay(0.999)),
    }.items():
        for dtype in (torch.float32, torch.float64):
            opt = optimizer()
            opt.param_groups[0]["lr"] = torch.tensor(1.0, dtype=dtype)
            errors[name, dtype] = worst(build(opt), opt, right)
    assert errors["torch", torch.float32] > 1e-5
    assert errors["ours", torch.float32] <= 2**-23  # the rounding of one number
    assert errors["torch", torch.float64] < 1e-12
    assert errors["ours", torch.float64] == 0


def test_a_long_cosine_is_exact_at_its_far_end():
    ours = lrs.Cosine(1.0, 0.0, 100_000)
    t = np.array([0, 1, 49_999, 50_000, 99_999])
    exact = [float(torch.sin(torch.tensor(np.pi * (100_000 - k) / 200_000, dtype=torch.float64)) ** 2) for k in t]
    assert np.allclose(ours.values()[t], exact, rtol=1e-6, atol=0)
    assert [ours(int(k)) for k in t] == ours.values()[t].tolist()


def test_generic_calls_of_trainers_that_know_only_lrscheduler():
    """As torchtune and torchtitan use any scheduler: build, step, ask, save, load, copy."""
    opt = optimizer()
    scheduler: tl.LRScheduler = ScheduledLR(opt, OURS)
    assert isinstance(scheduler, tl.LRScheduler)
    assert scheduler.base_lrs == [1.0]
    assert (scheduler.last_epoch, scheduler._step_count) == (0, 1)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            seen.append(scheduler.get_last_lr()[0])
            opt.step()
            scheduler.step()
    assert seen == OURS.values()[:4].tolist()
    assert (scheduler.last_epoch, scheduler._step_count) == (4, 5)
    assert scheduler.get_last_lr() == [rate(opt)] == [OURS(4)]

    state = pickle.loads(pickle.dumps(scheduler.state_dict()))
    copied = copy.deepcopy(scheduler)  # with the optimizer inside
    run(copied.optimizer, copied, 2)
    assert (copied.last_epoch, scheduler.last_epoch) == (6, 4)
    assert rate(opt) == OURS(4)

    # One state for several optimizers, as with one optimizer per pipeline stage.
    states = [copy.deepcopy(state) for _ in range(2)]
    for one in states:
        fresh = optimizer()
        again = ScheduledLR(fresh, OURS)
        again.load_state_dict(one)
        assert again.last_epoch == 4
        assert run(fresh, again, 6) == OURS.values()[4:].tolist()
    with pytest.raises(ScheduleError, match="another schedule"):
        ScheduledLR(optimizer(), lrs.Constant(1.0)).load_state_dict(state)
