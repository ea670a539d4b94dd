"""The tracker in a training loop."""

import copy

import pytest
import torch
from torch import nn

from lrscope import Objective, SharpnessTracker, sharpness
from lrscope.curvature import preconditioner
from lrscope.errors import LrscopeWarning, MeasurementError


def mse(model, batch):
    return (model(batch[0]) - batch[1]).pow(2).mean()


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    X = torch.randn(40, 6, dtype=torch.float64)
    return model, Objective(model, mse, [(X, torch.sin(2 * X[:, :3]))])


def step(objective, optimizer):
    optimizer.zero_grad()
    mse(objective.model, objective.batches[0]).backward()
    optimizer.step()


def test_through_the_edge_of_stability_within_one_percent_nine_times_in_ten():
    model, objective = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5 / sharpness(objective).value)
    tracker, errors, lr = SharpnessTracker(objective, optimizer), [], optimizer.param_groups[0]["lr"]
    for now in range(120):
        result = tracker.update()
        if now % 3 == 0:  # the reference takes most of the time
            errors.append(abs(result.value / sharpness(objective, tol=1e-4).value - 1))
        step(objective, optimizer)
    errors = torch.tensor(errors)
    assert lr * result.value > 1.8  # the run did reach the edge
    assert errors.median() < 0.002
    assert errors.quantile(0.9) < 0.01
    assert tracker.num_matvecs <= 2 * tracker.num_updates  # a hard case: three eigenvalues at the edge
    assert not result.preconditioned


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("budget", [0.1, 1.0, 3.0])
def test_a_budget_is_kept_at_every_step(kind, budget):
    model, objective = problem()
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=1.5 / sharpness(objective).value)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tracker, spent = SharpnessTracker(objective, optimizer, budget=budget, method="difference"), 0.0
    assert tracker.step() is not None
    for steps in range(1, 80):
        step(objective, optimizer)
        result = tracker.step()
        if result is not None:
            spent += 2 * result.num_matvecs + result.cost.gradients
        assert spent <= budget * steps + 1e-9
    assert spent > 0.5 * min(budget, 1.0) * steps  # and used: this run is at the edge of stability


def test_adam_is_followed_preconditioned_with_or_without_the_gradient_at_hand():
    model, objective = problem()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tracker, twin = (
        SharpnessTracker(objective, optimizer),
        SharpnessTracker(objective, optimizer),
    )
    for _ in range(12):
        result = tracker.update()
        assert twin.update(gradient=objective.grad(objective.point())).value == result.value
        P = preconditioner(optimizer, objective)
        exact = sharpness(objective, preconditioner=P, tol=1e-6)
        assert result.preconditioned
        assert result.value == pytest.approx(exact.value, rel=0.03)
        step(objective, optimizer)


def test_a_warmup_that_starts_at_zero_keeps_the_groups_ratio():
    model, objective = problem()
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2:].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    before = SharpnessTracker(objective, optimizer).update()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    now = SharpnessTracker(objective, optimizer).update()
    assert now.preconditioned
    assert now.value == before.value


@pytest.mark.parametrize("options", [{}, {"budget": 1.5}, {"count": 2, "longest": 6}])
def test_interrupting_at_any_step_changes_no_bit(options, tmp_path):
    model, objective = problem()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def row(result):
        return None if result is None else (result.values.tolist(), result.residuals.tolist(), result.num_matvecs)

    start = {k: v.clone() for k, v in model.state_dict().items()}
    whole, expected, states = SharpnessTracker(objective, optimizer, **options), [], []
    for _ in range(24):
        torch.save(whole.state_dict(), tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt", weights_only=True))
        expected.append(row(whole.step()))
        step(objective, optimizer)
    assert None in expected
    for stop in (0, 1, 7, 18):
        model.load_state_dict(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(stop):
            step(objective, optimizer)
        # Neither the seed nor the settings of the new tracker's method matter to what it goes on with.
        resumed = SharpnessTracker(objective, optimizer, seed=5, **options)
        resumed.load_state_dict(states[stop])
        for wanted in expected[stop:]:
            assert row(resumed.step()) == wanted
            step(objective, optimizer)
        assert (resumed.num_updates, resumed.num_matvecs) == (whole.num_updates, whole.num_matvecs)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    _, objective = problem()
    tracker = SharpnessTracker(objective, count=2)
    tracker.update()
    before = tracker.update().value
    old = {k: v for k, v in tracker.state_dict().items() if k not in ("choice", "pace")}
    for state, words in (
        (old, "no choice, pace in it"),
        (SharpnessTracker(objective).state_dict(), "follows 1 eigenvalues"),
        (SharpnessTracker(objective, count=2, memory=9).state_dict(), "remembers 9 products"),
    ):
        with pytest.raises(MeasurementError, match=words) as caught:
            tracker.load_state_dict(state)
        assert "\n" not in str(caught.value)
    assert tracker.update().value == pytest.approx(before, rel=1e-3)


def test_a_warmup_pulls_the_next_reading_forward():
    model, objective = problem()
    top = sharpness(objective).value
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    tracker, read = SharpnessTracker(objective, optimizer, longest=1000), []
    for now in range(200):  # theta stands still
        if tracker.step(1e-9 / top if now < 150 else 1.5 / top) is not None:
            read.append(now)
    assert 150 in read
    assert len([now for now in read if now < 150]) <= 10


def test_the_optimizers_own_learning_rate_is_the_default():
    model, objective = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    told, asked = SharpnessTracker(objective, optimizer), SharpnessTracker(objective, optimizer)
    for now in range(40):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + now / 4)
        assert (told.step(optimizer.param_groups[0]["lr"]) is None) == (asked.step() is None)


def test_several_eigenvalues_are_followed_through_training():
    model, objective = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5 / sharpness(objective).value)
    tracker, errors = SharpnessTracker(objective, optimizer, count=3), []
    for now in range(80):
        result = tracker.update()
        if now % 5 == 0:
            exact = sharpness(objective, count=3, tol=1e-4).values
            errors.append(float((result.values - exact).abs().max() / exact[0]))
        step(objective, optimizer)
    assert result.values.shape == result.residuals.shape == (3,)
    assert torch.tensor(errors).median() < 0.002
    assert torch.tensor(errors).quantile(0.9) < 0.01
    assert tracker.num_matvecs <= 4.5 * tracker.num_updates + 20


def test_a_diverged_run_is_a_result_and_not_an_error():
    _, objective = problem()
    tracker = SharpnessTracker(objective)
    tracker.update()
    result = tracker.update(objective.point() * float("inf"))
    assert result.value != result.value
    assert not result.converged
    assert "diverged" in result.note
    assert tracker.update().converged


def test_other_batches_and_other_points_can_be_asked_for():
    _, objective = problem()
    (X, y) = objective.batches[0]
    half = [(X[:20], y[:20])]
    tracker = SharpnessTracker(objective)
    tracker.update()
    expected = sharpness(Objective(objective.model, mse, half), 1.01 * objective.point(), tol=1e-6).value
    found = [tracker.update(1.01 * objective.point(), half).value for _ in range(4)][-1]
    assert found == pytest.approx(expected, rel=0.02)


def test_wrong_use_is_refused():
    model, objective = problem()
    with pytest.raises(ValueError, match="tol"):
        SharpnessTracker(objective, tol=0)
    with pytest.raises(ValueError, match="budget"):
        SharpnessTracker(objective, budget=-1)
    with pytest.raises(ValueError, match="memory"):
        SharpnessTracker(objective, memory=3)
    with pytest.raises(ValueError, match=r"3 \* count \+ 1 = 7"):
        SharpnessTracker(objective, count=2, memory=6)
    with pytest.raises(ValueError, match="longest"):
        SharpnessTracker(objective, longest=0)
    with pytest.raises(ValueError, match="count"):
        SharpnessTracker(objective, count=0)
    with pytest.raises(MeasurementError, match="Adagrad"):
        SharpnessTracker(objective, torch.optim.Adagrad(model.parameters()))
    with pytest.raises(ValueError, match="theta"):
        SharpnessTracker(objective).update(torch.zeros(3))
    other = SharpnessTracker(Objective(nn.Linear(6, 3).double(), mse, objective.batches))
    with pytest.raises(MeasurementError, match="belongs to a model"):
        other.load_state_dict(SharpnessTracker(objective).state_dict())


class _HiddenReLU(torch.autograd.Function):
    """A ReLU that no name in the graph tells."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * (x > 0)

    @staticmethod
    def setup_context(ctx, inputs, _output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, slope):
        return slope * (ctx.saved_tensors[0] > 0)


class _Hidden(nn.Module):
    def forward(self, x):
        return _HiddenReLU.apply(x)


@pytest.mark.parametrize("kink", [nn.ReLU, _Hidden])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_small_networks_with_kinks_are_read_right_in_float32(kink, kind):
    def ce(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    torch.manual_seed(0)
    X, y = torch.randn(64, 8), torch.randint(0, 3, (64,))
    model = nn.Sequential(nn.Linear(8, 16), kink(), nn.Linear(16, 3))
    precise = copy.deepcopy(model).double()
    objective, reference = Objective(model, ce, [(X, y)]), Objective(precise, ce, [(X.double(), y)])
    sgd = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    optimizer = sgd if kind == "sgd" else torch.optim.Adam(model.parameters(), lr=0.01)
    tracker, errors = SharpnessTracker(objective, optimizer), []
    for now in range(61):
        if now % 20 == 0:
            value = tracker.update(steps=20).value
            precise.load_state_dict(model.state_dict())
            P = preconditioner(optimizer, objective).double()
            errors.append(abs(value / sharpness(reference, preconditioner=P, method="exact", tol=1e-3).value - 1))
        optimizer.zero_grad()
        ce(model, (X, y)).backward()
        optimizer.step()
    # Readings far apart miss a few percent; those by differences of gradients were five to fifty times the value.
    assert max(errors) < 0.1
    assert SharpnessTracker(objective, optimizer).update().method == "exact"  # what was found is not forgotten


def test_a_difference_that_was_asked_for_is_called_unconverged_where_it_is_contradicted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    objective = Objective(model, mse, [(torch.randn(64, 8), torch.randn(64, 3))])
    with torch.no_grad():
        model[0].bias.zero_()  # and one input at 0: its kinks are at theta itself
        objective.batches[0][0][:32] *= 1e-4
    with pytest.warns(LrscopeWarning, match="off by"):
        reading = SharpnessTracker(objective, method="difference").update()
    assert (reading.method, reading.converged) == ("difference", False)
    assert abs(reading.value / sharpness(objective, method="exact").value - 1) > 0.05
    assert reading.error > 0.05


def test_readings_are_the_same_under_autocast_and_with_another_default_device():
    model, _ = problem()
    model.float()
    X = torch.randn(40, 6)
    objective = Objective(model, mse, [(X, torch.sin(2 * X[:, :3]))])
    plain = SharpnessTracker(objective, count=2)
    expected = [plain.update().values for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        other = SharpnessTracker(objective, count=2)
        found = [other.update().values for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_optimizer_of_another_model_or_one_that_climbs_is_refused():
    model, objective = problem()
    with pytest.raises(MeasurementError, match="does not hold"):
        SharpnessTracker(objective, torch.optim.SGD(problem()[0].parameters(), lr=0.1))
    with pytest.raises(MeasurementError, match="maximize"):
        SharpnessTracker(objective, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)).update()
    with pytest.raises(MeasurementError, match="state_dict"):
        SharpnessTracker(objective).load_state_dict(None)


def test_a_probe_at_a_bad_point_is_not_held_against_the_model():
    model = nn.Linear(6, 3)
    nn.init.zeros_(model.weight)
    X = torch.randn(20, 6)
    objective = Objective(model, lambda m, b: mse(m, b) + m.weight.abs().pow(1.5).sum(), [(X, X[:, :3])])
    assert sharpness(objective, max_matvecs=5).method == "difference"  # a root at 0: its second derivative is inf
    with torch.no_grad():
        model.weight.normal_()
    assert sharpness(objective).method == "exact"
