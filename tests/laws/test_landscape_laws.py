"""What every landscape obeys: nothing is left on what it was given, and what may not matter does not."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cases
import lrscope as lrs
from fingerprints import world
from lrscope import landscape as L
from lrscope.tasks import Batches, Task

D = torch.float64


class Fuse:
    """Counts evaluations and raises at one of them."""

    def __init__(self):
        self.count, self.at, self.error = 0, None, KeyboardInterrupt

    def tick(self):
        self.count += 1
        if self.count == self.at:
            raise self.error("half way")


class Ticking(nn.Module):
    """Passes on what comes, with a tick and a random draw."""

    def __init__(self, fuse):
        super().__init__()
        self.fuse = fuse

    def forward(self, x):
        self.fuse.tick()
        return x + 0 * torch.rand(()).to(x)

    def __deepcopy__(self, memo):
        return Ticking(self.fuse)


class World:
    """A task and an objective over one kind of network, two networks in the middle of training, and their state."""

    def __init__(self):
        self.fuse = Fuse()
        x, y = cases.data(D)
        self.train = Batches(x[:20], y[:20], batch_size=8, shuffle=True)
        self.task = Task(
            self.build, self.loss_fn, self.train, [(x[20:], y[20:])], metrics={"accuracy": cases.accuracy}
        )
        self.models = [self.task.model(s) for s in (0, 1, 2)]
        self.models[1].eval()
        self.optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in self.models]
        batches = self.task.batches()
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            model.register_forward_hook(lambda *_: None)
            for batch in batches:
                cases.cross_entropy(model, batch).backward()
            optimizer.step()
        self.batches = batches

    def build(self, seed):
        return nn.Sequential(
            nn.Linear(cases.FEATURES, 4), nn.BatchNorm1d(4), Ticking(self.fuse), nn.Dropout(0.5), nn.Tanh(),
            nn.Linear(4, cases.CLASSES),
        ).to(D)  # fmt: skip

    def loss_fn(self, model, batch):
        self.fuse.tick()
        return cases.cross_entropy(model, batch)

    def objective(self, mode):
        """A new one, for one that was measured before remembers how."""
        return lrs.Objective(self.models[2], self.loss_fn, self.batches, mode=mode)

    def state(self):
        return [world(m, o, self.batches) for m, o in zip(self.models, self.optimizers, strict=True)]


def along(w, target):
    a, b, _ = w.models
    return L.curvature(target, [a, b], num_points=2, num_batches=1, tol=0.1)


CALLS = {
    "barrier": lambda w, target: L.barrier(target, *w.models[:2], num_points=5),
    "profile": lambda w, target: L.profile(target, [m.state_dict() for m in w.models], num_points=5, kind="bezier"),
    "line": lambda w, target: L.line(target, *w.models[:2], num_points=5, beyond=0.5),
    "connect": lambda w, target: L.connect(target, *w.models[:2], steps=3, num_points=3),
    "connect adam": lambda w, target: L.connect(
        target, *w.models[:2], steps=3, num_points=3, kind="chain", bends=2, optimizer="adam"
    ),
    "plane": lambda w, target: L.plane(target, *w.models, num_points=3),
    "pca_plane": lambda w, target: L.pca_plane(target, w.models, num_points=3),
    "random_plane": lambda w, target: L.random_plane(target, w.models[0], num_points=3),
    "random_line": lambda w, target: L.random_line(target, w.models[0], num_points=5),
    "random_directions": lambda w, target: L.random_directions(target, w.models[0]),
    "network_at": lambda w, target: L.network_at(target, w.models[0]),
    "curvature": along,
}
SILENT = {"random_directions"}
"""Evaluates no loss."""
TARGETS = {
    "task": lambda w: w.task,
    "train": lambda w: w.objective("train"),
    "eval": lambda w: w.objective("eval"),
}


def perhaps(error):
    return contextlib.suppress(error, lrs.LrscopeError)


def test_every_function_is_under_this_law():
    functions = {name for name in L.__all__ if callable(getattr(L, name)) and name.islower()}
    assert functions == {call.split()[0] for call in CALLS} | {"align"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("call", CALLS)
def test_no_trace_of_a_call_that_ends_or_is_cut_off(call, target):
    w = World()
    before = w.state()
    for error in (KeyboardInterrupt, RuntimeError):
        w.fuse.count, w.fuse.at, w.fuse.error = 0, None, error
        CALLS[call](w, TARGETS[target](w))
        assert w.state() == before
        ticks = w.fuse.count
        if ticks == 0:
            assert call in SILENT or (call, target) == ("network_at", "train")
            continue
        for at in sorted({1, 2, ticks // 2, ticks - 1, ticks} - {0}):
            w.fuse.count, w.fuse.at = 0, at
            # A RuntimeError in a batched program is looked at again the plain way, which may go well by then.
            surely = pytest.raises(KeyboardInterrupt) if error is KeyboardInterrupt else perhaps(RuntimeError)
            with surely:
                CALLS[call](w, TARGETS[target](w))
            w.fuse.at = None
            assert w.state() == before, at


def test_alignment_leaves_no_trace():
    class Constant(nn.Module):  # tracing stores the constant on the network that it traces
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.layer(x) + torch.ones(5))

    for a, b, refused in ((cases.mlp(), cases.mlp(), False), (Constant(), Constant(), True)):
        before = world(a), world(b)
        try:
            found = L.align(a, b)
            assert not refused
            assert not {id(p) for p in found.model.parameters()} & {id(p) for p in b.parameters()}
        except lrs.MeasurementError:
            assert refused
        assert (world(a), world(b)) == before


def test_what_is_given_is_not_changed():
    w = World()
    o = w.objective("eval")
    g = torch.Generator().manual_seed(0)
    given = [o.point() + torch.randn(o.size, generator=g, dtype=D) for _ in range(3)]
    copies = [p.clone() for p in given]
    states = [m.state_dict() for m in w.models]
    curve = L.connect(o, given[0], given[1], steps=3, num_points=3)
    L.plane(o, *given, num_points=3), L.pca_plane(o, given, num_points=3)
    L.barrier(w.task, *states[:2], num_points=3)
    curve.bends[0].add_(1)
    curve(0).add_(1)
    for p, q in zip(given, copies, strict=True):
        assert torch.equal(p, q)
        assert not p.requires_grad
    assert torch.equal(curve(0), given[0])


numbers = st.floats(-2, 2, allow_nan=False).map(lambda v: round(v, 3))
vectors = st.lists(numbers, min_size=3, max_size=3).map(lambda v: torch.tensor(v, dtype=D))


def quartic(batches=1):
    model = nn.Linear(3, 1, bias=False, dtype=D)
    data = torch.linspace(0.5, 1.5, 12, dtype=D).split(12 // batches)
    return lrs.Objective(model, lambda m, x: ((m.weight**2 - 1) ** 2 * x[:, None]).sum(1).mean(), list(data))


@settings(max_examples=30)
@given(vectors, vectors)
def test_a_barrier_is_the_same_from_either_side(a, b):
    one, other = L.barrier(quartic(), a, b), L.barrier(quartic(), b, a)
    np.testing.assert_allclose(one.profile["train_loss"], other.profile["train_loss"][::-1], rtol=1e-9, atol=1e-12)
    assert one.height == pytest.approx(other.height, rel=1e-9, abs=1e-12)
    assert one.above_chord == pytest.approx(other.above_chord, rel=1e-9, abs=1e-12)


@settings(max_examples=30)
@given(vectors, vectors)
def test_the_two_definitions_are_ordered(a, b):
    """0 <= height <= above_chord <= height + difference of the ends."""
    found = L.barrier(quartic(), a, b)
    slack = 1e-9 * (1 + max(found.ends))
    assert 0 <= found.height <= found.above_chord + slack
    assert found.above_chord <= found.height + abs(found.ends[0] - found.ends[1]) + slack


@settings(max_examples=30)
@given(vectors, vectors, st.sampled_from([2, 3, 4, 6, 12]))
def test_how_the_data_are_split_does_not_matter(a, b, batches):
    one, other = L.barrier(quartic(), a, b, num_points=7), L.barrier(quartic(batches), a, b, num_points=7)
    np.testing.assert_allclose(one.profile["train_loss"], other.profile["train_loss"], rtol=1e-10, atol=1e-12)


@settings(max_examples=30)
@given(vectors, vectors)
def test_a_convex_loss_has_no_barrier(a, b):
    model = nn.Linear(3, 1, bias=False, dtype=D)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=g, dtype=D)
    objective = lrs.Objective(model, lambda m, x: m(x).square().mean(), [x])
    found = L.barrier(objective, a, b)
    scale = 1e-12 * (1 + max(found.ends))
    assert found.height == 0
    assert found.above_chord <= scale


@settings(max_examples=20)
@given(vectors, vectors, st.integers(1, 4), st.sampled_from(["bezier", "chain"]))
def test_a_finer_grid_contains_a_coarser_one(a, b, bends, kind):
    """Refining can only raise a barrier."""
    found = [L.profile(quartic(), [a, b, -a, b + 1][: bends + 1], kind=kind, num_points=n) for n in (9, 17, 33)]
    heights = [L.Barrier.read(p).height for p in found]
    assert heights == sorted(heights)
    np.testing.assert_allclose(found[0]["train_loss"], found[2]["train_loss"][::4], rtol=1e-12)


@settings(max_examples=20)
@given(vectors, vectors, vectors)
def test_a_plane_holds_its_three_points(a, b, c):
    u, v = b - a, c - a
    if (
        float(torch.linalg.matrix_rank(torch.stack([u, v]), rtol=1e-3)) < 2
        or float(torch.stack([u, v]).norm()) < 1e-2
    ):
        return
    found = L.plane(quartic(), a, b, c, num_points=2)
    for name, point in zip("abc", (a, b, c), strict=True):
        x, y = found.marks[name]
        torch.testing.assert_close(found.origin + x * found.directions[0] + y * found.directions[1], point)
        assert found.x[0] <= x <= found.x[-1]
        assert found.y[0] <= y <= found.y[-1]
