"""Barriers: closed forms, plain evaluations of loaded networks, and BatchNorm's statistics against torch's own."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cases
import lrscope as lrs
from lrscope.landscape import barrier, line, network_at, profile
from lrscope.landscape import together as together_module
from lrscope.tasks import Batches, Task

D = torch.float64


def well(model, x):
    """L(theta) = sum (theta^2 - 1)^2, minimal at every vector of signs."""
    return ((model.weight**2 - 1) ** 2).sum() * x.mean()


def wells():
    return lrs.Objective(nn.Linear(2, 1, bias=False, dtype=D), well, [torch.ones(4, dtype=D), torch.ones(2, dtype=D)])


def test_the_barrier_between_two_wells():
    found = barrier(wells(), torch.tensor([-1.0, 1.0], dtype=D), torch.tensor([1.0, 1.0], dtype=D))
    assert found.height == found.above_chord == 1.0
    assert found.t == 0.5
    assert found.ends == (0.0, 0.0)
    assert found.stderr == 0.0  # both batches say the same
    assert "barrier 1 ± 0 at t = 0.500" in str(found)
    np.testing.assert_allclose(found.profile["train_loss"], ((2 * found.profile.t - 1) ** 2 - 1) ** 2, atol=1e-14)
    np.testing.assert_allclose(found.profile.travelled, 2 * found.profile.t)


def test_the_two_definitions_where_the_ends_differ():
    a, b = torch.tensor([-1.0, 1.0], dtype=D), torch.tensor([1.0, 1.3], dtype=D)
    found = barrier(wells(), a, b, num_points=2001)
    t = np.linspace(0, 1, 2001)
    want = ((2 * t - 1) ** 2 - 1) ** 2 + ((1 + 0.3 * t) ** 2 - 1) ** 2
    np.testing.assert_allclose(found.profile["train_loss"], want, atol=1e-12)
    assert found.ends == pytest.approx((0.0, 0.69**2))
    assert found.height == pytest.approx(want.max() - 0.69**2)
    assert found.above_chord == pytest.approx((want - 0.69**2 * t).max())
    assert found.height < found.above_chord


def test_a_path_that_only_climbs_has_no_barrier():
    found = barrier(wells(), torch.tensor([1.0, 1.0], dtype=D), torch.tensor([1.0, 2.0], dtype=D))
    assert found.height == 0
    assert found.t == 1
    assert found.stderr is None  # the end itself is highest


def test_no_barrier_between_a_network_and_itself():
    task = cases.TASKS["tuple"](D)
    found = barrier(task, task.model(0), task.model(0), num_points=3)
    assert found.height == 0
    assert np.ptp(found.profile["train_loss"]) < 1e-12


def test_a_loss_that_is_not_finite_is_an_infinite_barrier():
    objective = lrs.Objective(
        nn.Linear(1, 1, bias=False), lambda m, x: (1 / m.weight.abs()).sum() * x.mean(), [torch.ones(3)]
    )
    found = barrier(objective, torch.tensor([-1.0]), torch.tensor([1.0]))
    assert found.height == found.above_chord == np.inf
    assert found.to_dict()["height"] is None


def test_the_standard_error_is_that_of_paired_differences():
    model = nn.Linear(1, 1, bias=False, dtype=D)
    data = [torch.full((n,), x, dtype=D) for n, x in ((1, 1.0), (2, 3.0), (3, 0.5))]
    objective = lrs.Objective(model, well, data)
    found = barrier(objective, torch.tensor([-1.0], dtype=D), torch.tensor([1.0], dtype=D))
    w, d = np.array([1, 2, 3]) / 6, np.array([1.0, 3.0, 0.5])
    mean = (w * d).sum()
    assert found.height == pytest.approx(mean)
    assert found.stderr == pytest.approx(np.sqrt((w**2 * (d - mean) ** 2).sum() * 3 / 2))


def by_hand(task, a, b, t):
    """The columns of a task at one point, from a network that is loaded and run in the plainest way."""
    model = task.model(5)
    with torch.no_grad():
        for p, q, r in zip(model.parameters(), a.parameters(), b.parameters(), strict=True):
            p.copy_((1 - t) * q + t * r)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    with torch.no_grad():
        if norms:
            torch.optim.swa_utils.update_bn([x for x, _ in full_batches(task)], model)
            model.eval()
        out = {}
        for name, of in (("train", "train"), ("test", "evaluate")):
            n = loss = right = 0
            for batch in task.batches(of=of):
                k = task.count(batch)
                n, loss = n + k, loss + k * float(task.loss_fn(model, batch))
                right += k * float(cases.accuracy(model, batch))
            out[f"{name}_loss"], out[f"{name}_error"] = loss / n, 1 - right / n
    return out


def full_batches(task):
    return task.batches()


def equal_batches(make):
    """A task whose training batches are equally large, as torch's update_bn weighs them."""
    x, y = cases.data(D)
    parts = [Batches(x[:16], y[:16], batch_size=8), Batches(x[20:], y[20:], batch_size=8)]
    return Task(lambda seed: make().to(D), cases.cross_entropy, *parts, metrics={"accuracy": cases.accuracy})


@pytest.mark.parametrize("layer", [nn.Tanh, lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.5)])
def test_a_task_is_what_the_plainest_evaluation_gives(layer):
    task = equal_batches(lambda: cases.with_layer(layer))
    a, b = task.model(0), task.model(1)
    found = profile(task, [a, b], num_points=5)
    assert set(found.values) == {"train_loss", "train_error", "test_loss", "test_error"}
    for i, t in enumerate(found.t):
        for column, want in by_hand(task, a, b, t).items():
            assert found[column][i] == pytest.approx(want, rel=1e-12, abs=1e-14), (column, t)


def test_statistics_do_not_depend_on_those_that_came():
    """At both ends, too: refreshed in the same way they are equal, whatever stood in the networks."""
    task = equal_batches(lambda: cases.with_layer(lambda: nn.BatchNorm1d(8)))
    a, b = task.model(0), task.model(1)
    fresh = profile(task, [a, b], num_points=3)
    for m in (a, b):
        m[1].running_mean += 7
        m[1].running_var *= 100
    moved = profile(task, [a, b], num_points=3)
    for column in fresh.values:
        np.testing.assert_array_equal(fresh[column], moved[column])


def test_ends_refreshed_by_torch_and_kept_are_the_same_ends():
    """refresh=False uses the statistics that the networks bring; with torch's they give the same end."""
    task = equal_batches(lambda: cases.with_layer(lambda: nn.BatchNorm1d(8)))
    a = task.model(0)
    torch.optim.swa_utils.update_bn([x for x, _ in task.batches()], a)
    refreshed, kept = (profile(task, [a, a], num_points=2, refresh=r) for r in (True, False))
    np.testing.assert_allclose(refreshed["test_loss"], kept["test_loss"], rtol=1e-13)


def test_statistics_of_unequal_batches_are_weighed_by_examples():
    task = cases.TASKS["batch_norm"](D)  # 8, 8 and 4
    model = network_at(task, task.model(0))
    first, norm = model[0], model[1]
    means, variances, n = [], [], []
    for x, _ in task.batches():
        h = first(x)
        means.append(h.mean(0)), variances.append(h.var(0)), n.append(len(x))
    w = torch.tensor(n, dtype=D)[:, None] / sum(n)
    torch.testing.assert_close(norm.running_mean, (w * torch.stack(means)).sum(0).detach())
    torch.testing.assert_close(norm.running_var, (w * torch.stack(variances)).sum(0).detach())


def test_without_refresh_the_networks_must_share_their_statistics():
    task = cases.TASKS["batch_norm"](D)
    a, b = task.model(0), task.model(1)
    a[1].running_mean += 1
    with pytest.raises(lrs.TaskError, match=r"b: '1.running_mean' is not trained .* differs from a's"):
        barrier(task, a, b, refresh=False)
    b.load_state_dict({**b.state_dict(), "1.running_mean": a[1].running_mean})
    barrier(task, a, b, refresh=False)


class Other(nn.Module):
    """A BatchNorm of somebody else's, with torch's names for what it keeps."""

    def __init__(self):
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, self.momentum)


def test_a_norm_is_known_by_what_it_keeps():
    ours = equal_batches(lambda: cases.with_layer(lambda: nn.BatchNorm1d(8, affine=False)))
    theirs = equal_batches(lambda: cases.with_layer(Other))
    for seed in (0, 1):
        assert torch.equal(ours.model(seed)[0].weight, theirs.model(seed)[0].weight)
    a, b = (profile(t, [t.model(0), t.model(1)], num_points=5) for t in (ours, theirs))
    np.testing.assert_allclose(a["test_loss"], b["test_loss"], rtol=1e-13)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["tuple", "batch_norm", "dropout", "frozen", "attention_tied"])
def test_an_objective_is_measured_as_it_is(name, mode):
    task = cases.TASKS[name](D)
    objective = lrs.Objective(task.model(0), task.loss_fn, task.batches(), mode=mode)
    a = objective.point()
    b = a + 0.3 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    found = profile(objective, [a, b], num_points=5)
    assert list(found.values) == ["train_loss"]
    if name == "batch_norm" and mode == "eval":
        return  # its statistics are recomputed, which Objective does not do
    for t, value in zip(found.t, found["train_loss"], strict=True):
        assert value == pytest.approx(objective.loss((1 - t) * a + t * b), rel=1e-10)


@pytest.mark.parametrize("name", sorted(cases.TASKS))
def test_together_and_one_by_one_agree(name, monkeypatch):
    task = cases.TASKS[name](D)
    a, b = task.model(0), task.model(1)
    if name == "frozen":
        b.hidden[0].weight.data.copy_(a.hidden[0].weight)
    found = profile(task, [a, b], num_points=9)
    monkeypatch.setattr(together_module, "FEWEST", 100)
    for column, values in profile(task, [a, b], num_points=9).values.items():
        np.testing.assert_allclose(values, found[column], rtol=1e-10, atol=1e-12)


def test_points_that_are_not_kept_are_made_again(monkeypatch):
    task = cases.TASKS["batch_norm"](D)
    a, b = task.model(0), task.model(1)
    found = profile(task, [a, b], num_points=9)
    monkeypatch.setattr(together_module, "KEPT_BYTES", 0)
    monkeypatch.setattr(together_module, "BYTES", {"cpu": 40_000})
    for column, values in profile(task, [a, b], num_points=9).values.items():
        np.testing.assert_allclose(values, found[column], rtol=1e-12)


def test_modules_states_and_vectors_are_the_same_points():
    task = cases.TASKS["attention_tied"](D)
    a, b = task.model(0), task.model(1)
    flat = [nn.utils.parameters_to_vector(m.parameters()).detach() for m in (a, b)]
    found = [
        profile(task, pair, num_points=3)["test_loss"]
        for pair in (
            (a, b),
            (a.state_dict(), b.state_dict()),
            flat,
            (a, b.state_dict()),
            (dict(a.named_parameters()), flat[1]),
        )
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_what_is_not_interpolated_comes_from_the_networks():
    """A frozen first layer and a constant buffer that differ from what build makes."""
    task = cases.TASKS["frozen"](D)
    a, b = task.model(3), task.model(4)
    b.hidden[0].weight.data.copy_(a.hidden[0].weight)
    found = profile(task, [a, b], num_points=2)
    for i, m in enumerate((a, b)):
        m.eval()
        n = [len(y) for _, y in task.batches(of="evaluate")]
        losses = [float(task.loss_fn(m, batch).detach()) for batch in task.batches(of="evaluate")]
        assert found["test_loss"][i] == pytest.approx(np.average(losses, weights=n), rel=1e-12)


def test_loss_and_metrics_share_one_forward_pass():
    calls = []

    class Counted(nn.Linear):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    x, y = cases.data(torch.float32)
    metrics = {"accuracy": cases.accuracy, "margin": lambda m, b: m(b[0] * 1.0).max()}
    task = Task(lambda s: Counted(6, 3), cases.cross_entropy, [(x, y)], metrics=metrics)
    found = profile(task, [task.model(0), task.model(1)], num_points=2)
    assert len(calls) == 4  # a pass for loss and accuracy, one for the metric that asks for other inputs
    assert found.cost.forwards == 4
    assert set(found.values) == {"train_loss", "train_error", "train_margin"}
    with pytest.raises(ValueError, match="'train_margin' may be good when high"):
        barrier(task, task.model(0), task.model(1), of="train_margin")


def test_an_output_that_a_loss_edits_is_computed_anew():
    def edits(model, batch):
        x, y = batch
        return F.cross_entropy(model(x).mul_(3), y)

    x, y = cases.data(D)
    metric = {"plain": cases.cross_entropy}
    task = Task(lambda s: nn.Linear(6, 3, dtype=D), edits, [(x, y)], metrics=metric)
    a, b = task.model(0), task.model(1)
    found = profile(task, [a, b], num_points=2)
    assert found["train_plain"][0] == pytest.approx(float(cases.cross_entropy(a, (x, y)).detach()), rel=1e-12)


def test_augmentation_is_the_same_at_every_point():
    x, y = cases.data(D)
    noisy = Batches(
        x, y, batch_size=8, shuffle=True, augment=lambda b, g: (b[0] + torch.randn(b[0].shape, generator=g), b[1])
    )
    task = Task(lambda s: cases.mlp().to(D), cases.cross_entropy, noisy)
    a = task.model(0)
    assert np.ptp(profile(task, [a, a], num_points=5)["train_loss"]) < 1e-12


def test_a_network_on_the_path():
    task = cases.TASKS["batch_norm"](D)
    a, b = task.model(0), task.model(1)
    found = profile(task, [a, b], num_points=3)
    middle = network_at(
        task, (nn.utils.parameters_to_vector(a.parameters()) + nn.utils.parameters_to_vector(b.parameters())) / 2
    )
    assert not middle.training
    got = profile(task, [middle, middle], num_points=2, refresh=False)
    assert got["test_loss"][0] == pytest.approx(found["test_loss"][1], rel=1e-12)


def test_cost_counts_passes_in_training_batches():
    task = cases.TASKS["batch_norm"](D)  # 20 training examples in batches of 8, 12 to evaluate
    found = barrier(task, task.model(0), task.model(1), num_points=5)
    assert found.cost.forwards == pytest.approx(5 * (20 + 20 + 12) / 8)
    assert (
        barrier(task, task.model(0), task.model(1), num_points=5, num_batches=1).cost.forwards == 5 * (8 + 8 + 12) / 8
    )


def test_progress_reaches_its_end():
    seen = []
    task = cases.TASKS["batch_norm"](D)
    barrier(
        task, task.model(0), task.model(1), num_points=3, on_progress=lambda done, all_: seen.append((done, all_))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_line_beyond_its_ends():
    a, b = torch.tensor([-1.0, 1.0], dtype=D), torch.tensor([1.0, 1.0], dtype=D)
    found = line(wells(), a, b, beyond=0.5, num_points=9)
    np.testing.assert_allclose(found.t, np.linspace(-0.5, 1.5, 9))
    np.testing.assert_allclose(found["train_loss"], ((2 * found.t - 1) ** 2 - 1) ** 2, atol=1e-12)
    np.testing.assert_allclose(found.travelled[-1], 4)


def test_a_chain_through_checkpoints_passes_through_them():
    objective = wells()
    stops = [torch.tensor(p, dtype=D) for p in ([1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0])]
    found = profile(objective, stops, num_points=5)
    np.testing.assert_allclose(found["train_loss"], [0, 1, 0, 1, 0], atol=1e-14)


def test_other_columns_of_the_same_measurement():
    task = cases.TASKS["conv"](D)
    found = barrier(task, task.model(0), task.model(1))
    errors = found.on("test_error")
    assert errors.profile is found.profile
    assert errors.height == pytest.approx(errors.profile["test_error"].max() - max(errors.ends))
    with pytest.raises(ValueError, match="'validation_loss' was not measured; choose one of train_loss"):
        found.on("validation_loss")
    ax = errors.plot(label="straight")
    assert ax.get_ylabel() == "test error"
    assert len(ax.lines[0].get_xdata()) == 25


def test_results_are_json():
    import json

    task = cases.TASKS["tuple"]()
    found = barrier(task, task.model(0), task.model(1), num_points=3)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["profile"]["t"] == [0, 0.5, 1]


def test_a_compiled_networks_names_are_seen_through():
    task = cases.TASKS["tuple"](D)
    a, b = task.model(0), task.model(1)
    plain = profile(task, [a, b], num_points=3)["test_loss"]
    np.testing.assert_array_equal(
        plain, profile(task, [torch.compile(a), torch.compile(b)], num_points=3)["test_loss"]
    )
    again = copy.copy(task)
    object.__setattr__(again, "build", lambda seed: torch.compile(task.build(seed)))
    with torch.compiler.set_stance("force_eager"):
        np.testing.assert_allclose(plain, profile(again, [a.state_dict(), b], num_points=3)["test_loss"], rtol=1e-12)
