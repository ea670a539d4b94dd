"""Where the sharpness goes by itself: told from series made to go there, and from the uv model, which knows."""

import numpy as np
import pytest

import labelled_runs as labelled
from lrscope.errors import MeasurementError
from lrscope.records import Run
from lrscope.solvable import UV
from lrscope.stability import natural_sharpening


def run_of(sharpness, lr):
    lr = np.broadcast_to(lr, len(sharpness))
    return labelled.record(np.ones(len(sharpness)), np.asarray(sharpness), lr)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
@pytest.mark.parametrize(("end", "kind"), [(80, "sharpening"), (50, "constant"), (20, "reduction")])
def test_three_ways(noise, end, kind):
    rng = np.random.default_rng(0)
    series = np.linspace(50, end, 100) * np.exp(noise * rng.standard_normal(100))
    found = natural_sharpening(run_of(series, 0.01))
    assert found.kind == kind
    assert found.met is None
    assert found.turn is None
    assert found.before == pytest.approx(50, rel=0.15)
    assert found.after == pytest.approx(end, rel=0.15)
    assert found.noise == pytest.approx(noise, rel=0.4, abs=1e-3)
    assert {"sharpening": "rose", "reduction": "fell", "constant": "stayed"}[kind] in str(found)


def test_how_the_limit_is_met():
    steps = np.arange(200)
    head_on = natural_sharpening(run_of(50 + 0.5 * steps, 0.02))
    assert (head_on.kind, head_on.met, head_on.end) == ("sharpening", "head-on", 99)
    rear_end = natural_sharpening(run_of(100 * 0.995**steps, 0.0005 * (steps + 1)))
    assert (rear_end.kind, rear_end.met) == ("reduction", "rear-end")
    assert "longer warmup" in str(rear_end)
    ramp = natural_sharpening(run_of(np.full(200, 50.0), 0.0005 * (steps + 1)))
    assert (ramp.kind, ramp.met) == ("constant", "ramp")


def test_a_turn_is_told_with_its_place():
    """What Adam's preconditioned sharpness does: it falls, then it rises."""
    steps = np.arange(300)
    series = 1000 * np.exp(-steps / 10) + 20 + 0.1 * steps
    found = natural_sharpening(run_of(series, 1e-4))
    assert found.kind == "reduction"
    assert abs(found.turn - int(series.argmin())) <= 1
    assert found.at_turn == pytest.approx(series.min(), rel=0.02)
    assert "risen again" in str(found)


def test_readings_beyond_the_limit_at_the_very_start_are_passed_over():
    series = np.concatenate([np.full(3, 500.0), np.linspace(20, 60, 50)])
    found = natural_sharpening(run_of(series, 0.02))
    assert (found.kind, found.start) == ("sharpening", 3)
    always = natural_sharpening(run_of(np.full(50, 500.0), 0.02))
    assert always.kind == "unknown"
    assert "too often beyond" in str(always)


def test_nothing_recorded_is_an_error():
    with pytest.raises(MeasurementError, match="sharpness and headroom"):
        natural_sharpening(Run("x", {}, ({"step": 0, "loss": 1.0},)))


@pytest.mark.parametrize(("scale", "kind"), [(0.2, "sharpening"), (1.0, "constant")])
@pytest.mark.parametrize("seed", range(3))
def test_the_uv_models_way(scale, kind, seed):
    """Small weights sharpen, usual ones stay: kalra2024/sign-rule, on the recorded curvature."""
    uv = UV(64, y=2.0, scale=scale, seed=seed)
    lr = 0.2 / uv.kernel
    run = uv.run(lr, 4000)
    found = natural_sharpening(labelled.record(run.loss.numpy() + 1e-9, run.curvature.numpy(), run.lr.numpy()))
    assert found.kind == kind


def test_labelled_runs_are_told_right():
    rng = np.random.default_rng(12)
    for kind in ("edge", "decay", "below"):
        for _ in range(5):
            one = labelled.simulated(rng, kind=kind)
            assert natural_sharpening(one.run).kind == one.trend
