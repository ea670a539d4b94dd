"""Calls made by Python and by TorchScript are the same calls, and what is recorded of a function is what it does."""

import dataclasses
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import TASKS
from lrscope.isolation import mode_of
from lrscope.optimizers import FunctionalOptimizer, OptimizerSpec
from lrscope.training import players
from lrscope.training.captured import Captured, Graphs
from lrscope.training.feed import Feed
from lrscope.training.kernels import Call, Given, Unplayable
from lrscope.training.players import Unsaid, looped, player, scripted
from lrscope.training.program import Program, examine
from lrscope.training.recorded import recorded
from lrscope.training.updates import Updates

aten = torch.ops.aten


def tape_of(name):
    task, seeds = TASKS[name](dtype=torch.float64), (0, 0)
    batch, dims = Feed.of(task, seeds).next(seeds)
    program = Program(task, seeds, examine(task, 0, task.batches(1)[0]))
    with mode_of(program.model, training=True):
        return Captured(program, Graphs()).tape(batch, dims)


SLOW = {"lstm", "attention_tied", "attention_dropout", "dict", "frozen"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in TASKS])
def test_both_players_give_the_same_bits(name):
    tape = tape_of(name)
    found = []
    for make in (scripted, looped):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(3)
            make(tape.calls)([[]])
            found.append([t.clone() for t in tape.outputs[:2]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_each_step_gets_its_own_tensors():
    total, one = torch.zeros(2), torch.ones(2)
    calls = [Call(aten.add_.Tensor, (total, Given(1))), Call(aten.mul.out, (total, one), {"out": Given(0)})]
    for make in (scripted, looped):
        total.zero_()
        outs = [torch.empty(2) for _ in range(3)]
        make(calls)([[out, torch.full((2,), float(i))] for i, out in enumerate(outs)])
        assert [float(out[0]) for out in outs] == [0, 1, 3]


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.clamp.default, (torch.arange(4.0), 0.5, float("inf"))),
        (aten.sum.dim_IntList, (torch.ones(2, 3), [1])),
        (aten.index.Tensor, (torch.arange(6.0).view(2, 3), [None, torch.tensor([2, 0])])),
        (aten.cat.default, ([torch.ones(2), torch.zeros(1)],)),
        (aten.to.dtype, (torch.ones(2), torch.float16)),
        (aten.native_layer_norm.default, (torch.arange(6.0).view(2, 3), [3], None, None, 1e-5)),
        (aten.split.Tensor, (torch.arange(4.0), 2)),
        (aten.new_full.default, (torch.ones(2), [3], -float("inf"))),
    ],
)
def test_every_kind_of_argument_and_result_can_be_said(op, args):
    wanted = op(*args)
    wanted = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted]
    for make in (scripted, looped):
        outs = [torch.zeros_like(t) for t in wanted]
        make([Call(op, args, {}, tuple(enumerate(outs)))])([[]])
        assert all(torch.equal(a, b) for a, b in zip(outs, wanted, strict=True))


def test_what_cannot_be_said_is_made_by_python(monkeypatch):
    out = torch.zeros(2, dtype=torch.complex64)
    call = Call(aten.fill_.Scalar, (out, 1j))
    with pytest.raises(Unsaid):
        scripted([call])
    player([call])([[]])
    assert out.tolist() == [1j, 1j]

    def gone(*_):
        raise RuntimeError("no TorchScript")

    monkeypatch.setattr(players, "_compiled", gone)
    done = torch.zeros(1)
    player([Call(aten.add_.Tensor, (done, torch.ones(1)))])([[], []])
    assert done == 2


def test_a_kernels_error_is_its_own():
    table, out = torch.ones(3, 2), torch.empty(1, 2)
    calls = [Call(aten.index_select.out, (table, 0, torch.tensor([7])), {"out": out})]
    with pytest.raises((IndexError, RuntimeError)) as by_python:
        looped(calls)([[]])
    with pytest.raises(by_python.type) as by_script:
        player(calls)([[]])
    assert str(by_script.value) == str(by_python.value)
    assert "TorchScript" not in str(by_script.value)


def test_lanes_play_at_the_same_time():
    """One function, compiled once, over the tensors of each thread."""
    totals = [torch.zeros(1) for _ in range(4)]
    plays = [player([Call(aten.add_.Tensor, (t, Given(0)))]) for t in totals]
    threads = [threading.Thread(target=play, args=([[torch.ones(1)]] * 500,)) for play in plays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [float(t) for t in totals] == [500] * 4


RULES = ["sgd", "sgd(momentum=0)", "sgd(momentum=0.8, dampening=0.3, weight_decay=0.1)", "sgd(nesterov=True)"]
RULES += ["adam(weight_decay=0.1)", "adamw", "radam", "giadam", "giadamw", "riadam"]


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("several", [False, True], ids=["one rule", "numbers of their own"])
def test_recorded_updates_are_the_rules_own(text, several):
    """Across the step at which RAdam's rectification begins, which changes what is computed."""
    spec = OptimizerSpec.parse(text)
    own = {"weight_decay": 0.02} if spec.name == "sgd" else {"betas": (0.7, 0.95)}
    if spec.name == "sgd" and spec.momentum:
        own["momentum"] = 0.5
    specs = [spec, dataclasses.replace(spec, **own)] if several else [spec]
    g = torch.Generator().manual_seed(1)
    grads = torch.randn(12, 2, 5, dtype=torch.float64, generator=g)
    rates = torch.rand(12, 2, 1, dtype=torch.float64, generator=g)
    ends = []
    for play in (False, True):
        rule = FunctionalOptimizer(specs if several else spec)
        theta, grad = torch.ones(2, 5, dtype=torch.float64), torch.empty(2, 5, dtype=torch.float64)
        state = rule.init(theta)
        rule.update(theta, grad.copy_(grads[0]), rates[0], state)
        if play:
            numbers = rule.numbers(rates[1:], 1)
            before = [t.clone() for t in (theta, grad, *state.tensors())]
            calls = recorded(
                lambda *n, r=rule, t=theta, g=grad, s=state: r.apply(t, g, n, s), [n[0] for n in numbers]
            )
            assert all(torch.equal(a, b) for a, b in zip(before, (theta, grad, *state.tensors()), strict=True))
            fed = [Call.copy(grad, Given(len(numbers))), *calls]
            player(fed)([[*(n[k] for n in numbers), grads[k + 1]] for k in range(11)])
        else:
            for k in range(1, 12):
                rule.update(theta, grad.copy_(grads[k]), rates[k], state)
        ends.append(theta)
    torch.testing.assert_close(*ends, rtol=1e-13, atol=0)


def test_a_view_of_what_changes_cannot_be_recorded():
    memory = torch.zeros(2, 3)
    with pytest.raises(Unplayable, match="view"):
        recorded(lambda x: memory.add_(x.t()), [torch.ones(3, 2)])


GRAPHS = Graphs()  # traced once for all examples


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.integers(1, 4), min_size=1, max_size=4), several=st.booleans())
def test_blocks_of_any_size_are_single_updates(parts, several):
    """Three replicas of one or two seeds; how many updates are made at a call changes nothing."""
    seeds = (0, 1, 0) if several else (0, 0, 0)
    steps = 1 + sum(parts)
    task = TASKS["tuple"](dtype=torch.float64)
    rates = torch.linspace(0.01, 0.2, 3, dtype=torch.float64)[None, :, None].expand(steps, 3, 1)
    ends = []
    for sizes in (parts, [1] * sum(parts)):
        program = Program(task, seeds, examine(task, 0, task.batches(1)[0]))
        rule = FunctionalOptimizer(OptimizerSpec.parse("adamw"))
        state, captured = rule.init(program.theta), Captured(program, GRAPHS)
        feed = Feed.of(task, seeds)
        losses = torch.zeros(steps - 1, 3, dtype=torch.float64)
        with mode_of(program.model, training=True):
            rule.update(program.theta, captured.gradients(*feed.next(seeds))[1], rates[0], state)
            updates, done = Updates(captured, rule, state, seeds, shared=not several), 0
            for size in sizes:
                numbers = rule.numbers(rates[1 + done : 1 + done + size], state.step)
                updates.play(list(feed.block(size, seeds)), numbers, losses[done : done + size])
                done, state.step = done + size, state.step + size
        ends.append((program.theta.clone(), losses))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
