"""Catapults: found where one was put, absent where none is."""

import numpy as np
import pytest
import torch

import cases
import lrscope as lrs
from lrscope.records import Run
from lrscope.stability import SharpnessProbe, Watch, find_catapults
from lrscope.training import train


def run_of(losses) -> Run:
    return Run("x", {}, tuple({"step": i, "loss": float(v)} for i, v in enumerate(losses)))


def decaying(n=600, noise=0.0, seed=0):
    t = np.arange(n)
    return np.exp(-t / 200) * np.exp(noise * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_a_falling_loss_holds_none(noise, seed):
    assert find_catapults(run_of(decaying(noise=noise, seed=seed))) == []


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("at", [60, 250, 450])
def test_a_bump_is_found_where_it_was_put(noise, at):
    t = np.arange(600)
    bump = 1 + 2.0 * np.exp(-0.5 * ((t - at) / 8) ** 2)  # three times the loss at its top
    (found,) = find_catapults(run_of(decaying(noise=noise) * bump))
    assert abs(found.peak - at) <= 12
    assert found.onset < at < found.end
    assert found.ratio == pytest.approx(3.0, rel=0.35)


def test_single_bad_batches_are_forgiven():
    losses = decaying(noise=0.05)
    losses[[100, 300, 500]] *= 5
    assert find_catapults(run_of(losses)) == []


def test_a_climb_that_never_comes_back_has_no_end():
    losses = decaying()
    losses[500:] *= np.exp(np.arange(100) / 20)
    (found,) = find_catapults(run_of(losses))
    assert found.end is None


def test_short_and_empty_runs_hold_none():
    assert find_catapults(run_of([1.0, 5.0, 1.0])) == []
    assert find_catapults(Run("x", {})) == []


def test_losses_below_zero_are_searched_too():
    falling = decaying(noise=0.02) - 0.5  # a log likelihood, say
    assert find_catapults(run_of(falling)) == []
    t = np.arange(600)
    (found,) = find_catapults(run_of(falling + 1.5 * np.exp(-0.5 * ((t - 300) / 8) ** 2)))
    assert abs(found.peak - 300) <= 12
    assert 1 < found.ratio < 100
    assert find_catapults(run_of(np.zeros(50))) == []


def test_a_real_catapult_of_full_batch_training_is_found():
    """Lewkowycz et al.: between 2 and 4 times the inverse sharpness the loss first rises, then falls flatter."""
    task = cases.TASKS["relu"](dtype=torch.float64)
    objective = task.objective(num_batches=1)
    batch = objective.batches[0]
    task = lrs.Task(task.build, task.loss_fn, [batch], name="full")
    stable = 2 / lrs.sharpness(objective, tol=1e-4).value
    quiet = train(task, "sgd(momentum=0)", lrs.schedules.Constant(0.4 * stable), 150)
    assert find_catapults(quiet) == []
    loud = train(
        task, "sgd(momentum=0)", lrs.schedules.Constant(5.0 * stable), 150, probes=[SharpnessProbe(task, every=1)]
    )
    assert loud.status == "finished"
    assert loud["headroom"].value[0] == pytest.approx(5.0, rel=0.02)
    assert find_catapults(loud)


@pytest.mark.parametrize("optimizer", ["sgd(momentum=0)", "sgd", "adamw"])
def test_a_watch_in_a_users_own_loop_sees_what_the_probe_sees(optimizer, tmp_path):
    task = cases.TASKS["tuple"](dtype=torch.float64)
    model = task.model(0)
    from lrscope.optimizers import OptimizerSpec

    opt = OptimizerSpec.parse(optimizer).build(model.parameters(), lr=0.05)
    batches = task.batches()
    watch = Watch(lrs.Objective(model, task.loss_fn, batches[:1]), opt, every=5, out=tmp_path)
    for step in range(12):
        opt.zero_grad()
        loss = task.loss_fn(model, batches[step % 2])
        loss.backward()
        opt.step()
        row = watch.step(loss)
        assert (row is not None) == (step % 5 == 0)
    run = watch.run()
    assert run["headroom"].step.tolist() == [0, 5, 10]
    assert np.allclose(run["headroom"].value, 0.05 / run["stable_lr"].value)
    assert "uses" in str(watch)
    assert "headroom" in Run.read(tmp_path / "runs" / "planned.jsonl").columns


def test_watch_refuses_what_it_cannot_use():
    task = cases.TASKS["tuple"]()
    model = task.model(0)
    objective = lrs.Objective(model, task.loss_fn, task.batches(1))
    with pytest.raises(ValueError, match="every"):
        Watch(objective, torch.optim.SGD(model.parameters(), lr=0.1), every=0)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        Watch(objective, "sgd")  # type: ignore[arg-type]
