"""ScheduledLR: what it writes, when, and that no order of loading can change it."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as tl

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR

S = lrs.warmup(3, start=0.1).then(lrs.Cosine(1.0, 0.0, 7))
W = lrs.Linear(1.0, 0.5, 10)


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def adamw(net, lr=0.1):
    return torch.optim.AdamW(
        [{"params": [net.weight], "lr": lr}, {"params": [net.bias], "lr": 2 * lr}], weight_decay=0.3, foreach=False
    )


def sgd(lr=0.1):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def train(net, optimizer, scheduler, count, start=0):
    seen = []
    for i in range(start, start + count):
        x = torch.sin(torch.arange(12.0) + i).reshape(4, 3)
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        seen.append([(float(g["lr"]), g["weight_decay"]) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def turn(scheduler):
    """One update, and the step that follows it."""
    scheduler.optimizer.step()
    scheduler.step()


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_group_runs_its_base_times_the_schedule():
    net = model()
    opt = adamw(net)
    scheduler = ScheduledLR(opt, {"lr": S, "weight_decay": W})
    assert isinstance(scheduler, tl.LRScheduler)
    seen = train(net, opt, scheduler, 12)
    for t, groups in enumerate(seen):
        assert groups == [(0.1 * S(t), 0.3 * W(t)), (0.2 * S(t), 0.3 * W(t))]
    assert scheduler.get_last_lr() == [0.1 * S(12), 0.2 * S(12)]
    assert scheduler.factors() == {"lr": S(12), "weight_decay": W(12)}


ORDERS = {
    "optimizer, build, scheduler": ("optimizer", "build", "scheduler"),
    "build, optimizer, scheduler": ("build", "optimizer", "scheduler"),
    "build, scheduler, optimizer": ("build", "scheduler", "optimizer"),
}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_resuming_anywhere_in_any_order_is_bit_equal(order, tensor_lr):
    """Torch's SequentialLR runs on at a tenth of the rate when the optimizer is restored first."""
    schedules = {"lr": S, "weight_decay": W}

    def start():
        net = model()
        return net, adamw(net, torch.tensor(0.1) if tensor_lr else 0.1)

    net, opt = start()
    whole = train(net, opt, ScheduledLR(opt, schedules), 12)
    for stop in range(12):
        net_a, opt_a = start()
        scheduler = ScheduledLR(opt_a, schedules)
        before = train(net_a, opt_a, scheduler, stop)
        saved = through_disk({"net": net_a.state_dict(), "opt": opt_a.state_dict(), "sched": scheduler.state_dict()})

        net_b, opt_b = start()
        net_b.load_state_dict(saved["net"])
        resumed = None
        for action in ORDERS[order]:
            if action == "build":
                resumed = ScheduledLR(opt_b, schedules)
            elif action == "optimizer":
                opt_b.load_state_dict(saved["opt"])
            else:
                resumed.load_state_dict(saved["sched"])
        after = train(net_b, opt_b, resumed, 12 - stop, start=stop)
        assert before + after == whole
        assert torch.equal(net_b.weight, net.weight)
        assert torch.equal(net_b.bias, net.bias)


def test_last_epoch_starts_where_torch_would():
    opt = sgd()
    scheduler = ScheduledLR(opt, S, last_epoch=4)
    assert opt.param_groups[0]["lr"] == 0.1 * S(5)
    assert scheduler.last_epoch == 5
    turn(scheduler)
    assert opt.param_groups[0]["lr"] == 0.1 * S(6)


def test_nesting_shifts_nothing():
    """Torch's nested SequentialLR is one step off."""
    flat, nested = sgd(), sgd()
    a, b, c = lrs.warmup(2, 0.5), lrs.Constant(1.0, 3), lrs.Linear(1.0, 0.0, 4)
    one, two = ScheduledLR(flat, a.then(b).then(c)), ScheduledLR(nested, a.then(lrs.Join((b, c))))
    for _ in range(10):
        assert flat.param_groups[0]["lr"] == nested.param_groups[0]["lr"]
        turn(one)
        turn(two)


def test_an_empty_first_part_is_skipped():
    opt = sgd()
    ScheduledLR(opt, lrs.warmup(0).then(lrs.Linear(0.5, 0.0, 4)))
    assert opt.param_groups[0]["lr"] == 0.05


def test_a_second_build_changes_nothing():
    opt = sgd()
    ScheduledLR(opt, S)
    first = copy.deepcopy(opt.state_dict())
    scheduler = ScheduledLR(opt, S)
    assert opt.state_dict() == first
    turn(scheduler)
    assert opt.param_groups[0]["lr"] == 0.1 * S(1)
    assert scheduler.base_lrs == [0.1]


def test_past_the_end_the_last_value_is_held():
    """Torch's cosine climbs again, and its OneCycleLR raises."""
    opt = sgd()
    scheduler = ScheduledLR(opt, lrs.Cosine(1.0, 0.25, 3))
    seen = []
    for _ in range(8):
        turn(scheduler)
        seen.append(opt.param_groups[0]["lr"])
    assert seen[2:] == [0.025] * 6


def test_restarts_reach_their_floor():
    """Torch's CosineAnnealingWarmRestarts never does."""
    cycle = lrs.Cosine(1.0, 0.0, 3).then(lrs.Constant(0.0, 1))
    opt = sgd()
    scheduler = ScheduledLR(opt, cycle.then(cycle))
    seen = []
    for _ in range(8):
        seen.append(opt.param_groups[0]["lr"])
        turn(scheduler)
    assert seen[3] == seen[7] == 0.0
    assert seen[4] == 0.1


def test_a_late_group_joins_with_its_own_base():
    """Torch's LinearLR drives it above its base, LambdaLR raises."""
    opt = sgd()
    scheduler = ScheduledLR(opt, lrs.Linear(0.1, 1.0, 4))
    turn(scheduler)
    opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0})
    scheduler.write()
    assert [g["lr"] for g in opt.param_groups] == [0.1 * scheduler.factors()["lr"], scheduler.factors()["lr"]]
    for _ in range(6):
        turn(scheduler)
    assert [g["lr"] for g in opt.param_groups] == [0.1, 1.0]
    assert scheduler.base_lrs == [0.1, 1.0]


def test_a_hand_edit_lasts_one_step_only():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    opt.param_groups[0]["lr"] = 77.0
    turn(scheduler)
    assert opt.param_groups[0]["lr"] == 0.1 * S(1)


def test_tensor_rates_are_filled_in_place_and_never_shared():
    lr = torch.tensor(0.1)
    net = model()
    opt = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias]}], lr=lr)
    scheduler = ScheduledLR(opt, S)
    rates = [g["lr"] for g in opt.param_groups]
    assert rates[0] is not rates[1]
    turn(scheduler)
    assert all(g["lr"] is r for g, r in zip(opt.param_groups, rates, strict=True))
    assert torch.equal(rates[0], torch.tensor(0.1).double().mul(S(1)).float())
    assert lr == torch.tensor(0.1)

    scheduler.get_last_lr()[0] *= 9
    scheduler.get_lr()[0] *= 9
    assert torch.equal(rates[0], rates[1])
    assert scheduler.get_last_lr() == pytest.approx([0.1 * S(1)] * 2)

    opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    turn(scheduler)
    assert torch.equal(opt.param_groups[2]["lr"], rates[0])


def test_no_step_reads_a_tensor_back(monkeypatch):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1))
    scheduler = ScheduledLR(opt, {"lr": S, "momentum": W})

    def refuse(*_):
        raise AssertionError("a value was read from the device")

    for name in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    turn(scheduler)
    scheduler.get_last_lr()
    scheduler.state_dict()
    scheduler.load_state_dict(scheduler.state_dict())


def test_tuples_and_other_keys_are_driven():
    net = model()
    opt = adamw(net)
    scheduler = ScheduledLR(opt, {"betas": lrs.Linear(1.0, 0.5, 2)})
    turn(scheduler)
    assert opt.param_groups[0]["betas"] == (0.9 * 0.75, 0.999 * 0.75)
    assert scheduler.get_last_lr() == [0.1, 0.2]
    momentum = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    ScheduledLR(momentum, {"lr": S, "momentum": lrs.Constant(0.5)})
    assert momentum.param_groups[0]["momentum"] == 0.45


def test_the_state_is_one_step_and_a_spec():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    turn(scheduler)
    state = scheduler.state_dict()
    spec = {"schedules": {"lr": S.to_spec()}, "floor": None, "absolute": [], "own_clock": False}
    assert state == {"version": 2, "step": 1, "spec": spec, "bases": {"lr": [0.1]}}
    assert through_disk(state) == json.loads(json.dumps(state)) == state
    assert lrs.from_spec(state["spec"]["schedules"]["lr"]) == S


def test_a_group_saved_without_its_base_gets_it_back():
    plain = sgd(lr=0.7)
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    opt.load_state_dict(plain.state_dict())
    turn(scheduler)
    assert opt.param_groups[0]["lr"] == 0.1 * S(1)


def test_jumping_to_a_step():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step(6)
    assert opt.param_groups[0]["lr"] == 0.1 * S(6)


def state_of(schedule):
    return ScheduledLR(sgd(), schedule).state_dict() | {"step": 3}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state_of(lrs.Constant(0.5)), "at step 3 its factor is 0.5, that of this one 1"),
        (state_of(S) | {"version": 1}, "version 1 is not readable"),
        (state_of(S) | {"step": -3}, "step must be a whole number"),
        ({"last_epoch": 3, "base_lrs": [0.1]}, "must be a ScheduledLR state"),
        (None, "must be a ScheduledLR state"),
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(state, message):
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ScheduleError, match=message):
        scheduler.load_state_dict(state)
    assert opt.state_dict() == before
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (0.5, "got 0.5 for 'lr'"),
        (lambda t: 1.0, "must be a Schedule"),
        ("cosine", "text is read by lrscope.schedules.parse"),
        ({}, "the dict is empty"),
        ({"weight_decya": S}, "parameter group 0 has no 'weight_decya'; did you mean 'weight_decay'"),
        ({"foreach": S}, "is None, not a number"),
        ({"nesterov": S}, "is False, not a number"),
    ],
)
def test_what_cannot_be_driven_is_refused_before_anything_moves(schedule, message):
    opt = sgd()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ScheduleError, match=message):
        ScheduledLR(opt, schedule)
    assert opt.state_dict() == before


def test_the_other_arguments_are_checked():
    with pytest.raises(TypeError, match="must be a torch Optimizer, got list"):
        ScheduledLR([], S)
    with pytest.raises(ScheduleError, match="last_epoch"):
        ScheduledLR(sgd(), S, last_epoch=-2)
    with pytest.raises(ScheduleError, match="epoch"):
        ScheduledLR(sgd(), S).step(1.5)
