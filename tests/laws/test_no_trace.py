"""Measuring changes nothing: whatever is called, on whatever model, also where the loss raises half way, or Ctrl-C comes."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import cases
import lrscope as lrs
from fingerprints import world
from hvp_cases import compiled
from lrscope import curvature
from lrscope.errors import LrscopeError
from lrscope.stability import equivalent_lr
from measuring import CALLS, SILENT, direction, names

# The loss raises while it is tried, which the choice of a product takes for an operation that cannot be done.
pytestmark = pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")


def test_every_public_name_is_measured_here_or_evaluates_no_loss():
    """Whoever adds a name to curvature, stability or Objective decides here which of the two it is."""
    covered = {call.split()[0] for call in CALLS}
    assert covered | set(SILENT) == names()
    assert not covered & set(SILENT)


class Fuse:
    """Counts evaluations, of the loss and inside of the model, and raises at one of them."""

    def __init__(self):
        self.set(None)

    def set(self, at, error=KeyboardInterrupt):
        self.count, self.at, self.error = 0, at, error

    def tick(self):
        self.count += 1
        if self.count == self.at:
            raise self.error("half way")


class Ticking(nn.Module):
    """Passes on what comes; a tick, and a draw from each global generator."""

    def __init__(self, fuse):
        super().__init__()
        self.fuse = fuse

    def forward(self, x):
        noise = torch.rand(()) + random.random() + np.random.rand()
        self.fuse.tick()
        return x + 0 * noise.to(x.dtype)

    def __deepcopy__(self, memo):
        return Ticking(self.fuse)


class Checkpointed(nn.Module):
    """A stage that is run again in the backward pass, where the fuse may burn down, too."""

    def __init__(self, fuse):
        super().__init__()
        self.inward, self.head = nn.Linear(cases.FEATURES, 4), nn.Linear(4, cases.CLASSES)
        self.stage = nn.Sequential(nn.Linear(4, 4), Ticking(fuse), nn.Tanh())

    def forward(self, x):
        return self.head(checkpoint(self.stage, self.inward(x), use_reentrant=False))


def norm(fuse):
    """Statistics that move, noise, a frozen layer and one that stands in eval mode."""
    model = nn.Sequential(
        nn.Linear(cases.FEATURES, 4), nn.BatchNorm1d(4), Ticking(fuse), nn.Dropout(0.5), nn.Tanh(),
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, cases.CLASSES),
    )  # fmt: skip
    model[0].weight.requires_grad_(False)
    model[6].eval()
    return model


def tied(fuse):
    model = cases.TiedBag()
    model.mix = nn.Sequential(model.mix, Ticking(fuse))
    return model


def attention(fuse):
    return nn.Sequential(cases.gpt(tied=True, dropout=0.2), Ticking(fuse))


MODELS = {
    "norm": norm,
    "tied": tied,
    "checkpointed": Checkpointed,
    "attention": attention,
    "compiled": lambda fuse: compiled(cases.mlp(4)),
}
SLOW = {"attention", "compiled"}
MODEL_NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]


class World:
    """A model in the middle of training, its optimizer and data, and the fingerprint of all that."""

    def __init__(self, name):
        self.fuse = fuse = Fuse()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = MODELS[name](fuse).double()
        kind = "tokens" if name in ("tied", "attention") else "features"
        self.batches = list(zip(*(t[:12].split(4) for t in cases.data(torch.float64, kind)), strict=True))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        for batch in self.batches:
            cases.cross_entropy(self.model, batch).backward()
        self.optimizer.step()
        self.model.register_forward_hook(lambda *_: None)

    def loss_fn(self, model, batch):
        self.fuse.tick()
        loss = cases.cross_entropy(model, batch)
        self.fuse.tick()
        return loss

    def run(self, call, at=None, error=KeyboardInterrupt):
        """The call on an objective of its own, and how it ended: nothing, or the exception."""
        objective = lrs.Objective(self.model, self.loss_fn, self.batches)
        self.fuse.set(at, error)
        try:
            call(objective, self.optimizer)
        except (Exception, KeyboardInterrupt) as raised:
            return raised
        finally:
            self.fuse.at = None
        return None

    def state(self):
        return world(self.model, self.optimizer, self.batches)


REFUSED = {("norm", "EmpiricalFisher"), ("checkpointed", "ForwardHessian"), ("checkpointed", "choose to track")}
"""BatchNorm mixes examples; activation checkpointing hides its tensors from forward mode."""


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_no_trace_of_a_call_that_ends_or_is_cut_off_anywhere(name):
    it = World(name)
    before = it.state()
    for label, call in CALLS.items():
        ended = it.run(call)
        assert (ended is None) == ((name, label) not in REFUSED), (label, ended)
        assert it.state() == before, label
        ticks = it.fuse.count
        assert ticks > 0 or label == "Objective.point"
        for at in sorted({1, ticks // 2, ticks} & set(range(1, ticks + 1))):
            ended = it.run(call, at)
            assert isinstance(ended, KeyboardInterrupt), (label, at, ended)
            assert it.state() == before, (label, at)


class Own(Exception):
    """Of the user's loss."""


@pytest.mark.parametrize("error", [RuntimeError, Own])
def test_no_trace_of_a_loss_that_fails(error):
    """A RuntimeError may be an operation that cannot be done, so another way is tried or the refusal says why."""
    it = World("norm")
    before = it.state()
    for label, call in CALLS.items():
        it.run(call)
        ticks = it.fuse.count
        for at in sorted({1, ticks // 2} & set(range(1, ticks + 1))):
            ended = it.run(call, at, error)
            assert it.state() == before, (label, at)
            if error is RuntimeError:
                assert ended is None or isinstance(ended, (RuntimeError, LrscopeError)), (label, at)
            else:
                assert isinstance(ended, (error, LrscopeError)), (label, at)


def test_a_backward_pass_that_fails_leaves_no_trace():
    it = World("norm")
    before = it.state()
    plain = it.loss_fn

    def loss_fn(model, batch):
        loss = plain(model, batch)
        if loss.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(loss):
            loss.register_hook(lambda _: it.fuse.tick())
        return loss

    it.loss_fn = loss_fn
    for label in ("Objective.grad", "Objective.hvp", "ExactHessian", "DifferenceHessian", "GaussNewton", "sharpness"):
        it.run(CALLS[label])
        for at in range(1, it.fuse.count + 1, 2):
            assert isinstance(it.run(CALLS[label], at), KeyboardInterrupt)
            assert it.state() == before, (label, at)


def test_what_is_given_is_not_changed():
    it = World("norm")
    objective = lrs.Objective(it.model, it.loss_fn, it.batches)
    given = {
        "theta": (objective.point() + 0.1).requires_grad_(),
        "v": direction(objective),
        "V": direction(objective, 3),
        "P": torch.rand(objective.size, dtype=torch.float64) + 1,
    }
    before = {k: v.detach().clone() for k, v in given.items()}
    theta, v, V, P = given.values()
    for H in (curvature.ExactHessian, curvature.ForwardHessian, curvature.DifferenceHessian):
        _ = H(objective, theta) @ v, H(objective, theta) @ V
    objective.hvp(theta, v), objective.loss_and_grad(theta), objective.loss(theta)
    curvature.GaussNewton(objective, theta) @ v
    _ = curvature.Preconditioned(curvature.ExactHessian(objective, theta), P) @ v
    for start in (v, V):
        lrs.sharpness(objective, theta, start=start, preconditioner=P, max_matvecs=6)
    curvature.directional(objective, v, theta, preconditioner=P)
    curvature.trace(objective, theta, preconditioner=P, num_matvecs=6)
    curvature.layer_sharpness(objective, theta, preconditioner=P, max_matvecs=3)
    curvature.gradient_noise_scale(objective, theta)
    curvature.block(objective, "7", theta=theta)
    tracker = lrs.SharpnessTracker(objective, it.optimizer)
    tracker.update(theta, gradient=v)
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.requires_grad == (name == "theta"), name
        assert tensor.grad is None, name


OWN = torch.Generator()


def loaders():
    x, y = (t[:12] for t in cases.data(torch.float64))
    data = TensorDataset(x, y)
    yield "global", DataLoader(data, 4, shuffle=True)
    yield "own", DataLoader(data, 4, shuffle=True, generator=OWN)
    yield "sampler", DataLoader(data, 4, sampler=RandomSampler(data, generator=OWN))
    yield (
        "batch sampler",
        DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(RandomSampler(data, generator=OWN), 4, drop_last=False)
        ),
    )


@pytest.mark.parametrize(("name", "loader"), list(loaders()))
def test_the_loader_goes_on_where_it_was(name, loader):
    """Also in the middle of an epoch, and also where an objective reads another one from the same loader."""
    model = cases.mlp().double()

    def epochs(measure):
        torch.manual_seed(3)
        OWN.manual_seed(4)
        seen = []
        for _ in range(2):
            running = iter(loader)
            seen.append(next(running)[0])
            if measure:
                lrs.sharpness(lrs.Objective(model, cases.cross_entropy, loader), max_matvecs=3)
            seen.extend(x for x, _ in running)
        return torch.cat(seen)

    assert torch.equal(epochs(True), epochs(False))


def test_an_optimizer_that_cannot_be_converted_stays_as_it_is():
    it = World("checkpointed")
    objective = lrs.Objective(it.model, it.loss_fn, it.batches)
    optimizer = torch.optim.SGD(it.model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    before = world(it.model, optimizer, it.batches)
    for at in (None, 1, 5, 9):
        it.fuse.set(at)
        with pytest.raises((KeyboardInterrupt, LrscopeError)):
            equivalent_lr(objective, optimizer, lrs.schedules.Constant(1.0), steps=10)
        assert world(it.model, optimizer, it.batches) == before


def test_the_fingerprint_sees_each_thing_it_names():
    """A law whose eyes are closed would hold always."""
    changes = {
        "parameters": lambda it: it.model[-1].bias.data.add_(1),
        "buffers": lambda it: it.model[1].running_mean.add_(1),
        "gradients": lambda it: it.model[-1].bias.grad.add_(1),
        "modes": lambda it: it.model[6].train(),
        "optimizer": lambda it: it.optimizer.param_groups[0].update(lr=1.0),
        "random": lambda it: np.random.rand(),
        "batches": lambda it: it.batches[0][0].add_(1),
        "wiring": lambda it: it.model[0].weight.requires_grad_(True),
        "settings": lambda it: torch.set_grad_enabled(False),
    }
    for name, change in changes.items():
        it = World("norm")
        before = it.state()
        assert it.state() == before
        with torch.enable_grad():
            change(it)
            after = it.state()
        assert [k for k in before if before[k] != after[k]] == [name]
    for hook in (
        lambda it: it.model[0].register_forward_hook(lambda *_: None),
        lambda it: it.model[-1].bias.register_post_accumulate_grad_hook(lambda _: None),
        lambda it: it.optimizer.register_step_pre_hook(lambda *_: None),
        lambda it: setattr(it.model[-1], "bias", copy.deepcopy(it.model[-1].bias)),
        lambda it: random.random() and setattr(it.model, "cache", 1),
    ):
        it = World("norm")
        before = it.state()
        hook(it)
        assert it.state()["wiring"] != before["wiring"]
