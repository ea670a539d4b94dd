"""EquivalentLR as a scheduler: what it writes, refuses and stores. That it is exact is held in tests/reference."""

import copy
import doctest
import gc
import pickle
import sys

import pytest
import torch
from torch import nn

from lrscope import LrscopeWarning, Objective, ScheduledLR
from lrscope.errors import MeasurementError, ScheduleError
from lrscope.optimizers import EquivalentLR
from lrscope.schedules import Constant, Cosine, Plateau, exponential_equivalent
from lrscope.stability import equivalent_lr, scale_invariance

SETTING = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def optimizer_of(**options):
    torch.manual_seed(0)
    conv, head = nn.Linear(4, 4), nn.Linear(4, 2)
    groups = [{"params": conv.parameters(), "name": "conv"}, {"params": head.parameters(), "name": "head"}]
    return torch.optim.SGD(groups, **{**SETTING, **options})


def update(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def values(optimizer, key="lr"):
    return [group[key] for group in optimizer.param_groups]


def test_only_the_named_groups_are_converted():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Cosine(1.0, 0.0, 50), invariant=["conv"])
    assert isinstance(scheduler, ScheduledLR)
    s = exponential_equivalent(Cosine(1.0, 0.0, 50), base_lr=0.1, weight_decay=0.01, momentum=0.9)
    assert scheduler.equivalents == {"conv": s}
    for t in range(50):
        assert values(optimizer) == [0.1 * s(t), 0.1 * Cosine(1.0, 0.0, 50)(t)] == scheduler.get_last_lr()
        assert values(optimizer, "weight_decay") == [0.0, 0.01]
        update(optimizer)
        scheduler.step()
    assert scheduler.updates == 50


def test_the_rebase_happens_inside_the_update():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=[0], steps=60, max_scale=1.1)
    due = scheduler.equivalents[0].rebases
    assert len(due) >= 2
    (weight, _), (head, _) = (group["params"] for group in optimizer.param_groups)
    for t in range(60):
        before = (
            weight.detach().clone(),
            optimizer.state[weight].get("momentum_buffer", torch.zeros_like(weight)).clone(),
        )
        untouched = (
            head.detach().clone(),
            optimizer.state[head].get("momentum_buffer", torch.zeros_like(head)).clone(),
        )
        lr, head_lr = values(optimizer)
        update(optimizer)
        factor = due.get(t + 1, 1.0)
        buffer = 0.9 * before[1] + 1
        assert torch.equal(optimizer.state[weight]["momentum_buffer"], buffer * factor)
        assert torch.allclose(weight, (before[0] - lr * buffer) / factor, rtol=1e-5, atol=1e-6)
        plain = 0.9 * untouched[1] + 1 + 0.01 * untouched[0]
        assert torch.allclose(head, untouched[0] - head_lr * plain, rtol=1e-5, atol=1e-6)
        scheduler.step()


def test_building_twice_changes_nothing():
    optimizer = optimizer_of()
    one = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=50)
    first = values(optimizer), values(optimizer, "weight_decay")
    two = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=50)
    assert (values(optimizer), values(optimizer, "weight_decay")) == first
    assert one.equivalents == two.equivalents


def test_a_scheduler_that_is_gone_rebases_no_more():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=60, max_scale=1.1)
    hooks = len(optimizer._optimizer_step_post_hooks)
    del scheduler
    gc.collect()
    assert len(optimizer._optimizer_step_post_hooks) == hooks - 2


def test_a_copy_goes_on_by_itself():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=60, max_scale=1.1)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        for run in (scheduler, twin):
            for _ in range(40 - run.updates):
                update(run.optimizer)
                run.step()
        for group, other in zip(optimizer.param_groups, twin.optimizer.param_groups, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(group["params"], other["params"], strict=True))
        assert values(optimizer) == values(twin.optimizer)


def test_past_the_end_is_said_once():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=3)
    for _ in range(3):
        update(optimizer)
        scheduler.step()
    with pytest.warns(LrscopeWarning, match="update 4 is past steps=3"):
        update(optimizer)
    scheduler.step()
    update(optimizer)  # a second warning would be an error


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=["cnov"], steps=9), "no group is 'cnov'; did you mean 'conv'"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[2], steps=9), "no group is 2"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=["conv", 0], steps=9), "0 is named twice"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[], steps=9), "a list of one or more groups"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant="conv", steps=9), "a list of one or more groups"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[0]), "group 0: .*never ends"),
        (lambda o: EquivalentLR(o, 0.1, invariant=[0], steps=9), "needs a Schedule for 'lr', got 0.1"),
        (lambda o: EquivalentLR(optimizer_of(nesterov=True), Constant(1.0), invariant=["conv"], steps=9), "group conv: .*nesterov=True"),
        (lambda o: EquivalentLR(optimizer_of(dampening=0.5), Constant(1.0), invariant=[0], steps=9), "dampening must be 0"),
        (lambda o: EquivalentLR(optimizer_of(weight_decay=1.0), Constant(1.0), invariant=[0], steps=99), "no positive rescaling"),
        (lambda o: EquivalentLR(torch.optim.Adam(o.param_groups[0]["params"]), Constant(1.0), invariant=[0], steps=9), "torch.optim.SGD, got Adam"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[0], steps=9).step(5), "epoch must be 0, the updates performed"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[0], steps=9).replan(20, keep="lr"), "cannot be changed on the way"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[0], steps=9).load_state_dict({}, replan="lr"), "cannot be changed on the way"),
        (lambda o: EquivalentLR(o, Constant(1.0), invariant=[0], steps=9).state_map("head"), "'head' is not converted"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_one_line(call, match):
    optimizer = optimizer_of()
    with pytest.raises(ScheduleError, match=match) as caught:
        call(optimizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drives", [
    {"weight_decay": Plateau("loss")},
    {"momentum": Plateau("loss")},
    {"momentum": "weight_decay", "weight_decay": Plateau("loss")},
])  # fmt: skip
def test_what_listens_cannot_be_translated(drives):
    optimizer = optimizer_of()
    with pytest.raises(ScheduleError, match=r"^schedule: .* listens .Plateau.*cannot be translated"):
        EquivalentLR(optimizer, {"lr": Constant(1.0), **drives}, invariant=["conv"], steps=9)
    assert values(optimizer, "weight_decay") == [0.01, 0.01]


def test_another_schedule_is_refused_with_a_remedy_that_exists():
    state = EquivalentLR(optimizer_of(), Constant(1.0), invariant=["conv"], steps=9).state_dict()
    other = EquivalentLR(optimizer_of(), Cosine(1.0, 0.5, 9), invariant=["conv"])
    with pytest.raises(ScheduleError, match=r"original_weights\(\)") as refused:
        other.load_state_dict(state)
    assert "replan" not in str(refused.value)


def test_a_state_of_another_weight_decay_is_refused():
    state = EquivalentLR(optimizer_of(), Constant(1.0), invariant=[0], steps=9).state_dict()
    other = EquivalentLR(optimizer_of(weight_decay=0.02), Constant(1.0), invariant=[0], steps=9)
    with pytest.raises(ScheduleError):
        other.load_state_dict(state)


# With the condition measured.


def measured(eps, *, split=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=eps), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(16, 6), torch.arange(16) % 3
    objective = Objective(net, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), [(x, y)])
    groups = scale_invariance(objective).param_groups(net) if split else net.parameters()
    return objective, torch.optim.SGD(groups, **SETTING)


def test_measured_groups_are_converted():
    objective, optimizer = measured(0.0)
    scheduler = equivalent_lr(objective, optimizer, Constant(1.0), steps=20)
    assert list(scheduler.equivalents) == [0]
    assert values(optimizer, "weight_decay") == [0.0, 0.01]


def test_nearly_invariant_is_said():
    objective, optimizer = measured(1e-5)
    with pytest.warns(LrscopeWarning, match="nearly scale invariant .*in its statistics, not step by step"):
        scheduler = equivalent_lr(objective, optimizer, Constant(1.0), steps=20, invariant=["scale_invariant"])
    assert list(scheduler.equivalents) == ["scale_invariant"]


@pytest.mark.parametrize(
    ("split", "invariant", "match"),
    [
        (True, ["rest"], "invariant: rest: not scale invariant"),
        (True, [0, 1], "invariant: rest: not scale invariant"),
        (False, None, "no group is scale invariant .group 0: not scale invariant.*split the parameters"),
    ],
)
def test_what_is_not_invariant_is_refused_before_anything_changes(split, invariant, match):
    objective, optimizer = measured(0.0, split=split)
    with pytest.raises(MeasurementError, match=match) as caught:
        equivalent_lr(objective, optimizer, Constant(1.0), steps=20, invariant=invariant)
    assert "\n" not in str(caught.value)
    assert set(values(optimizer, "weight_decay")) == {0.01}


def test_a_group_that_is_not_there_is_refused():
    objective, optimizer = measured(0.0)
    with pytest.raises(ScheduleError, match="no group is 'norm'"):
        equivalent_lr(objective, optimizer, Constant(1.0), steps=20, invariant=["norm"])


# In trainers: an update that did not happen rebases nothing.


def test_a_skipped_update_neither_rebases_nor_moves_the_schedule():
    optimizer = optimizer_of()
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=60, max_scale=1.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    weight = optimizer.param_groups[0]["params"][0]
    first = next(iter(scheduler.equivalents["conv"].rebases))
    for t in range(first + 1):
        before = weight.detach().clone()
        bad = t == first - 1  # the update that the rebase belongs to, and once more without its gradient's overflow
        for skipped in (True, False) if bad else (False,):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.full_like(p, float("inf") if skipped else 2.0)
            scaler.scale(torch.zeros(()))  # what a backward pass would begin with
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update(2.0)
            scheduler.step()
            if skipped:
                assert torch.equal(weight, before)
                assert scheduler.updates == t
        assert scheduler.updates == t + 1
    assert scheduler.idle_calls == 1

    plain = optimizer_of()
    reference = EquivalentLR(plain, Constant(1.0), invariant=["conv"], steps=60, max_scale=1.1)
    for _ in range(first + 1):
        update(plain)
        reference.step()
    for group, other in zip(optimizer.param_groups, plain.param_groups, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(group["params"], other["params"], strict=True))
        assert group["lr"] == other["lr"]


def test_accelerates_wrapper_is_looked_through():
    accelerate = pytest.importorskip("accelerate")
    optimizer, plain = optimizer_of(), optimizer_of()
    wrapped = accelerate.Accelerator(cpu=True).prepare_optimizer(optimizer)
    schedulers = [
        EquivalentLR(o, Constant(1.0), invariant=["conv"], steps=60, max_scale=1.1) for o in (wrapped, plain)
    ]
    for _ in range(40):
        update(wrapped)
        update(plain)
        for scheduler in schedulers:
            scheduler.step()
    assert schedulers[0].updates == 40
    assert values(optimizer) == values(plain)
    for group, other in zip(optimizer.param_groups, plain.param_groups, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(group["params"], other["params"], strict=True))


def test_a_tensor_rate_is_filled_in_place():
    optimizer = optimizer_of(lr=torch.tensor(0.1, dtype=torch.float64))
    held = EquivalentLR(optimizer, Cosine(1.0, 0.0, 30), invariant=["conv"])
    places = [group["lr"] for group in optimizer.param_groups]
    for _ in range(30):
        update(optimizer)
        held.step()
    s = held.equivalents["conv"]
    assert [group["lr"] for group in optimizer.param_groups] == places
    assert all(group["lr"] is place for group, place in zip(optimizer.param_groups, places, strict=True))
    assert float(places[0]) == s.base_lr * s(30)


@pytest.mark.parametrize("room", ["optimizers.equivalent", "stability.invariance", "stability.equivalent"])
def test_the_examples_print_what_they_say(room):
    assert doctest.testmod(sys.modules[f"lrscope.{room}"]).failed == 0
