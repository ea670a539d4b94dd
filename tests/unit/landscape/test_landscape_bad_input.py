"""What cannot be measured is refused before any work, in one line that says what came and what to do."""

import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.landscape import (
    align,
    barrier,
    connect,
    curvature,
    line,
    pca_plane,
    plane,
    profile,
    random_directions,
    random_line,
    random_plane,
)

TASK = cases.TASKS["tuple"]()
A, B = TASK.model(0), TASK.model(1)
MORE = {**A.state_dict(), "extra": torch.zeros(1)}
LESS = {k: v for k, v in A.state_dict().items() if k != "head.bias"}
OPTIMIZER = torch.optim.Adam(A.parameters())

POINTS = [
    (cases.mlp(9), r"^b: 'hidden.0.weight' has shape \(9, 6\) where the network of the first argument has \(8, 6\)"),
    (
        cases.gpt(),
        "^b: 'hidden.0.weight' is missing and 'token.weight' is not of this network; it looks like another arch",
    ),
    (LESS, "^b: 'head.bias' is missing; it looks like another architecture"),
    (MORE, "^b: 'extra' is not of this network"),
    ({"module." + k: v for k, v in A.state_dict().items()}, "saved from DataParallel or .*: remove 'module.'"),
    ({"_orig_mod." + k: v for k, v in A.state_dict().items()}, "saved from torch.compile: remove '_orig_mod.'"),
    ({"model." + k: v for k, v in A.state_dict().items()}, "saved from a wrapper .*: remove 'model.'"),
    (OPTIMIZER.state_dict(), "^b: its keys are 'state' and 'param_groups', an optimizer's state without the weights"),
    (
        {"model": A.state_dict(), "step": 3},
        r"^b: a whole checkpoint, with the network under 'model'; give b\['model'\]",
    ),
    ({"epoch": 1, "state_dict": A.state_dict()}, "under 'state_dict'"),
    (A.state_dict() | {"head.bias": 3}, "'head.bias' has shape int"),
    (cases.mlp().double(), "^b: 'hidden.0.weight' is torch.float64, that of the first argument torch.float32"),
    (torch.zeros(3), r"^b: a tensor of shape \(3,\); expected a vector of all 155 trainable parameters"),
    (torch.full((155,), torch.nan), "^b: holds parameters that are not finite"),
]


@pytest.mark.parametrize(("point", "message"), POINTS)
def test_a_point_of_another_network(point, message):
    for call in (barrier, connect, line):
        with pytest.raises(lrs.TaskError, match=message) as raised:
            call(TASK, A, point)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("point", [None, "net.pt", 3, OPTIMIZER])
def test_things_that_are_no_networks(point):
    with pytest.raises(TypeError, match=r"^b: expected a module, its state_dict"):
        barrier(TASK, A, point)


def test_an_untied_network_is_not_a_tied_one():
    task = cases.TASKS["embedding_tied"]()
    state = task.model(0).state_dict()
    state["head.weight"] = state["head.weight"] + 1
    with pytest.raises(lrs.TaskError, match=r"'token.weight' and 'head.weight' are one tied weight"):
        barrier(task, task.model(0), state)


def test_frozen_parameters_that_differ():
    task = cases.TASKS["frozen"]()
    with pytest.raises(lrs.TaskError, match=r"^b: 'hidden.0.weight' is not trained .* differs from a's"):
        barrier(task, task.model(0), task.model(1))


@pytest.mark.parametrize("target", [A, None, lambda: 0, "digits"])
def test_a_landscape_needs_a_loss(target):
    with pytest.raises(TypeError, match=r"^target: expected a lrs.Task or a lrs.Objective"):
        barrier(target, A, B)


def test_an_objective_has_its_own_batches():
    with pytest.raises(ValueError, match=r"^num_batches: an objective has its own batches"):
        barrier(TASK.objective(), A, B, num_batches=3)


ARGUMENTS = [
    (barrier, {"num_points": 1}, "num_points"),
    (barrier, {"num_points": 2.0}, "num_points"),
    (barrier, {"num_batches": 0}, "num_batches"),
    (barrier, {"num_points": 2}, "num_points: expected a whole number of at least 3, got 2"),
    (barrier, {"of": "valid_loss"}, "of: 'valid_loss' is not measured here; choose one of train_loss"),
    (connect, {"of": "valid_loss"}, "of: 'valid_loss' is not measured here"),
    (connect, {"seed": "x"}, "seed: expected a whole number of 0 or more, got 'x'"),
    (connect, {"seed": -1}, "seed: expected a whole number of 0 or more, got -1"),
    (connect, {"kind": "spline"}, "kind: expected 'bezier' or 'chain', got 'spline'"),
    (connect, {"bends": 0}, "bends"),
    (connect, {"steps": 0}, "steps"),
    (connect, {"steps": True}, "steps"),
    (connect, {"lr": 0}, "lr: expected a finite number above 0"),
    (connect, {"lr": float("nan")}, "lr"),
    (connect, {"weight_decay": -1}, "weight_decay: expected a finite number of 0 or more"),
    (
        connect,
        {"optimizer": "adamw"},
        r"optimizer: adamw decays the bends .* rule without it \('adam' in place of 'adamw'\)",
    ),
    (connect, {"optimizer": "sgd(weight_decay=0.1)"}, "give weight_decay=0.1 to connect"),
    (connect, {"optimizer": "lion"}, "'lion'"),
    (line, {"beyond": -1}, "beyond"),
]


@pytest.mark.parametrize(("call", "options", "message"), ARGUMENTS)
def test_arguments(call, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        call(TASK, A, B, **options)
    assert "\n" not in str(raised.value)


def test_a_column_is_refused_before_anything_is_trained_or_measured(monkeypatch):
    def work(*_, **__):
        raise AssertionError

    monkeypatch.setattr(lrs.landscape.surface.Surface, "evaluate", work)
    monkeypatch.setattr(lrs.landscape.surface.Surface, "training", work)
    for call in (barrier, connect):
        with pytest.raises(ValueError, match="of: 'train_accuracy' is not measured here"):
            call(TASK, A, B, of="train_accuracy")


@pytest.mark.parametrize("path", [A, [A], 3])
def test_curvature_needs_a_path(path):
    with pytest.raises(TypeError, match="path: expected a curve or a list of two networks or more, got"):
        curvature(TASK, path)


def test_arguments_of_slices():
    flat = nn.utils.parameters_to_vector(A.parameters()).detach()
    with pytest.raises(lrs.MeasurementError, match="one line"):
        plane(TASK, A, B, A)
    with pytest.raises(lrs.MeasurementError, match="one line"):
        pca_plane(TASK, [flat, 2 * flat, 3 * flat])
    with pytest.raises(ValueError, match="3 points or more, got 2"):
        pca_plane(TASK, [A, B])
    with pytest.raises(lrs.TaskError, match=r"^trajectory\[1\]: a tensor of shape"):
        pca_plane(TASK, [A, torch.zeros(2), B])
    with pytest.raises(ValueError, match="extent: expected a finite number above 0"):
        random_plane(TASK, A, extent=0)
    with pytest.raises(ValueError, match="extent"):
        random_line(TASK, A, extent=float("inf"))
    with pytest.raises(ValueError, match="count"):
        random_directions(TASK, A, count=0)
    with pytest.raises(ValueError, match="at least 2 ends, got 1"):
        profile(TASK, [A])
    with pytest.raises(ValueError, match="num_batches"):
        curvature(TASK, [A, B], num_batches=0)
    found = random_plane(TASK, A, num_points=2)
    with pytest.raises(ValueError, match=r"points: expected vectors of shape \(155,\), got \(3,\)"):
        found.project([torch.zeros(3)])
    with pytest.raises(ValueError, match="'train_acc' was not measured; choose one of train_loss"):
        found.plot(of="train_acc")


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x, x, x)[0])


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x)) if x.sum() > 0 else self.head(x)


class Rolls(Branches):
    def forward(self, x):
        return self.head(torch.roll(self.layer(x), 1, -1))


class Positions(Branches):
    def forward(self, x):
        return self.head(self.layer(x) + torch.arange(4))


class Noisy(Branches):
    def forward(self, x):
        return self.head(self.layer(x) + torch.rand(x.shape))


class Scales(Branches):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.head(self.layer(x) * self.scale)


UNREADABLE = [
    (Attends, "'layer' is called with several inputs"),
    (Branches, "cannot be traced"),
    (Rolls, "'roll' calls roll"),
    (Positions, "'_tensor_constant0' uses"),
    (Noisy, "'rand' makes a tensor of its own"),
    (Scales, "'scale' uses 'scale' outside of a layer"),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, 2)),
        "2 groups of channels",
    ),
    (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2)), "'1' is a convolution in 2 groups"),
    (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(5, 2)), "flatten them first"),
    (lambda: nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 2)), "'1' is a GLU"),
    (lambda: nn.Sequential(nn.Linear(4, 8), nn.Flatten(), nn.Linear(24, 2)), "reads 24 numbers of 8 units"),
]


@pytest.mark.parametrize(("make", "message"), UNREADABLE)
def test_networks_whose_units_cannot_be_read(make, message):
    with pytest.raises(lrs.MeasurementError, match=f"^align: .*{message}") as raised:
        align(make(), make())
    assert "\n" not in str(raised.value)


def test_networks_that_cannot_be_aligned():
    with pytest.raises(TypeError, match=r"model_b: expected a torch.nn.Module"):
        align(A, B.state_dict())
    with pytest.raises(lrs.TaskError, match=r"model_b: 'hidden.0.weight' has shape"):
        align(A, cases.mlp(9))
    with pytest.raises(ValueError, match="max_sweeps"):
        align(A, B, max_sweeps=0)
