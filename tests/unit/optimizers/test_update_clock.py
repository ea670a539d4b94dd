"""The clock of ScheduledLR: one performed update is one step, whoever calls what how often."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch

from lrscope import schedules as lrs
from lrscope.errors import LrscopeWarning
from lrscope.optimizers import ScheduledLR

S = lrs.warmup(3, start=0.1).then(lrs.Cosine(1.0, 0.0, 7))


def parameter():
    return torch.nn.Parameter(torch.ones(2))


def sgd(lr=0.1, **options):
    return torch.optim.SGD([parameter()], lr=lr, **options)


def backward(optimizer, value=1.0):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, value)


def lr(optimizer):
    return optimizer.param_groups[0]["lr"]


def test_a_call_per_micro_batch_moves_once_per_update():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LrscopeWarning)
        for micro in range(12):
            backward(opt)
            if micro % 4 == 3:
                opt.step()
            scheduler.step()
    assert scheduler.last_epoch == 3
    assert lr(opt) == 0.1 * S(3)
    assert scheduler.idle_calls == 9


def test_a_call_per_epoch_catches_up_with_the_updates():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    for epoch in range(3):
        for _ in range(2):
            opt.step()
        assert lr(opt) == 0.1 * S(2 * epoch)
        scheduler.step()
    assert (scheduler.last_epoch, lr(opt)) == (6, 0.1 * S(6))


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_mixed_precision_updates_do_not_count(fused):
    """Torch's schedulers move on (and warn of their order) when a GradScaler skips an update."""
    p = parameter()
    opt = torch.optim.Adam([p], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scheduler = ScheduledLR(opt, S)
    performed = 0
    for i in range(8):
        overflows = i in (0, 1, 4)
        opt.zero_grad()
        scaler.scale((p * (float("inf") if overflows else 1.0)).sum()).backward()
        before = p.detach().clone()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scaler.step(opt)
            scaler.update()
            scheduler.step()
        assert torch.equal(before, p) == overflows
        performed += not overflows
        assert (scheduler.last_epoch, lr(opt)) == (performed, 0.1 * S(performed))
    assert scheduler.idle_calls == 3


def test_a_closure_is_one_update():
    p = parameter()
    opt = torch.optim.LBFGS([p], lr=0.1, max_iter=4)
    scheduler = ScheduledLR(opt, S)

    def closure():
        opt.zero_grad()
        loss = (p - 3).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
        scheduler.step()
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize("times", [2, 4])
def test_being_stepped_n_times_per_update_changes_nothing_and_is_said_once(times):
    """What accelerate does to a prepared scheduler on N processes."""
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(8):
            opt.step()
            for _ in range(times):
                scheduler.step()
    assert scheduler.last_epoch == 8
    assert [str(w.message) for w in caught] == [
        f"this scheduler is stepped {times} times per optimizer update (some trainers step it once per process). "
        "The extra calls change nothing: one update is one step"
    ]


def test_stepping_without_training_is_not_silent():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    with pytest.warns(LrscopeWarning, match="has not performed an update yet"):
        scheduler.step()
    assert (scheduler.last_epoch, lr(opt)) == (0, 0.1 * S(0))


def test_an_optimizer_that_cannot_be_seen_is_said():
    """For example one whose step was captured into a graph and is replayed."""
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    opt.step()
    scheduler.step()
    for _ in range(19):
        scheduler.step()
    with pytest.warns(LrscopeWarning, match="20 times in a row"):
        scheduler.step()
    for _ in range(50):
        scheduler.step()  # said once: a second warning would be an error here


def test_counting_calls_is_what_torch_does():
    opt = sgd()
    scheduler = ScheduledLR(opt, S, count="calls")
    for t in range(1, 12):
        scheduler.step()
        assert (scheduler.last_epoch, lr(opt)) == (t, 0.1 * S(t))
    assert scheduler.idle_calls == 0


def test_a_state_saved_between_update_and_step_knows_the_update():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    opt.step()
    state = scheduler.state_dict()
    assert state["step"] == 1
    resumed = ScheduledLR(opt2 := sgd(), S)
    resumed.load_state_dict(state)
    assert (resumed.last_epoch, lr(opt2)) == (1, 0.1 * S(1))


def test_a_compiled_step_is_counted_and_not_compiled_again_for_each_rate():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    opt = torch.optim.Adam([parameter()], lr=torch.tensor(0.1))
    scheduler = ScheduledLR(opt, S)
    step = torch.compile(opt.step, backend=backend)
    for t in range(1, 6):
        backward(opt)
        step()
        scheduler.step()
        assert scheduler.last_epoch == t
    assert len(graphs) <= 2


def test_copies_count_their_own_optimizer():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    twin = copy.deepcopy(scheduler)
    assert twin.optimizer is not opt
    twin.optimizer.step()
    twin.step()
    assert (twin.last_epoch, scheduler.last_epoch) == (1, 0)
    assert (lr(twin.optimizer), lr(opt)) == (0.1 * S(1), 0.1 * S(0))
    back = pickle.loads(pickle.dumps(scheduler))
    back.optimizer.step()
    back.step()
    assert lr(back.optimizer) == 0.1 * S(1)


def test_a_copy_between_update_and_step_knows_the_update():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    opt.step()
    twin = copy.deepcopy(scheduler)
    twin.step()
    assert (twin.last_epoch, lr(twin.optimizer)) == (1, 0.1 * S(1))


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_distributed_checkpoints_step_the_optimizer_and_that_is_no_update(order, tensor_lr):
    """torch.distributed.checkpoint steps at a learning rate of 0 to see an optimizer's state."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    s = lrs.warmup(10)

    def build():
        net = torch.nn.Linear(2, 1)
        opt = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1)
        return net, opt, ScheduledLR(opt, s)

    def update(net, opt, scheduler):
        net(torch.ones(1, 2)).sum().backward()
        opt.step()
        scheduler.step()

    net, opt, scheduler = build()
    get_optimizer_state_dict(net, opt)
    assert scheduler.state_dict()["step"] == 0
    for _ in range(3):
        update(net, opt, scheduler)
    assert scheduler.last_epoch == 3
    saved, state = get_optimizer_state_dict(net, opt), scheduler.state_dict()
    net, opt, resumed = build()
    for what in ("optimizer", "scheduler") if order == "optimizer first" else ("scheduler", "optimizer"):
        if what == "optimizer":
            set_optimizer_state_dict(net, opt, saved)
        else:
            resumed.load_state_dict(state)
    update(net, opt, resumed)
    assert resumed.last_epoch == 4
    assert float(lr(opt)) == 0.1 * s(4)


def test_torchs_sequences_may_hold_it():
    opt = sgd()
    later = torch.optim.lr_scheduler.ConstantLR(opt, 1.0)
    ours = ScheduledLR(opt, lrs.warmup(3), count="calls")
    torch.optim.lr_scheduler.SequentialLR(opt, [ours, later], [3])


def test_the_inner_optimizer_of_a_wrapper_that_calls_it_itself_is_counted():
    class SAM(torch.optim.Optimizer):
        def __init__(self, base):
            self.base_optimizer = base
            super().__init__(base.param_groups, {})
            self.param_groups = base.param_groups

        def second_step(self):
            self.base_optimizer.step()

    opt = SAM(sgd())
    scheduler = ScheduledLR(opt, S)
    opt.second_step()
    scheduler.step()
    assert (scheduler.last_epoch, lr(opt)) == (1, 0.1 * S(1))


def test_a_forgotten_scheduler_leaves_no_hook():
    opt = sgd()
    scheduler = ScheduledLR(opt, S)
    gone = weakref.ref(scheduler)
    assert opt._optimizer_step_post_hooks
    del scheduler
    gc.collect()
    assert gone() is None
    opt.step()
    assert not opt._optimizer_step_post_hooks
    assert not opt._optimizer_step_pre_hooks


def test_a_wrapped_optimizer_is_counted_inside():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        @property
        def param_groups(self):
            return self.optimizer.param_groups

        @property
        def defaults(self):
            return self.optimizer.defaults

        def step(self, closure=None):
            self.optimizer.step(closure)

    opt = Wrapper(sgd())
    scheduler = ScheduledLR(opt, S)
    opt.step()
    scheduler.step()
    assert scheduler.last_epoch == 1
