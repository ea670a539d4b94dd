"""The edge of stability: found where it was put, also by a detector that was stopped in between."""

import json

import numpy as np
import pytest
import torch

import labelled_runs as labelled
import lrscope as lrs
from lrscope.errors import MeasurementError
from lrscope.records import Run
from lrscope.stability import EdgeDetector, SharpnessProbe, edge_of_stability
from lrscope.training import train


def run_of(headroom, every=1, **more):
    rows = [{"step": every * i, "loss": 1.0, "headroom": float(h), **more} for i, h in enumerate(headroom)]
    return Run("x", {}, tuple(rows))


def hovering(rng, n=300, level=1.02, spread=0.03):
    return level + spread * rng.standard_normal(n)


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("level", [1.0, 1.05, 1.3])
def test_hovering_is_found_with_its_level_and_spread(every, level):
    rng = np.random.default_rng(0)
    rise = np.linspace(0.2, 0.8, 100)
    found = edge_of_stability(run_of([*rise, *hovering(rng, level=level)], every))
    assert found.until is None
    assert abs(found.since / every - 100) <= 5
    assert found.mean == pytest.approx(level, abs=0.01)
    assert found.spread == pytest.approx(0.03, rel=0.2)
    assert found.share == pytest.approx(0.75, abs=0.02)
    assert "sat at the edge of stability from step" in str(found)


def test_leaving_is_noticed():
    rng = np.random.default_rng(1)
    found = edge_of_stability(run_of([*hovering(rng), *np.linspace(1, 0.1, 200)]))
    assert abs(found.until - 300) <= 5
    assert found.episodes == ((found.since, found.until),)
    assert "to 3" in str(found) or "to 2" in str(found)


def test_what_rests_below_the_limit_or_passes_through_it_is_not_at_the_edge():
    rng = np.random.default_rng(2)
    for headroom in (
        0.95 + 0.01 * rng.standard_normal(500),
        np.linspace(0.1, 6.0, 500),
        np.linspace(6.0, 0.1, 500),
        np.full(500, 3.0),
    ):
        found = edge_of_stability(run_of(headroom))
        assert found.since is None
        assert found.share == 0
        assert "never at the edge" in str(found)


def test_a_rate_that_a_cap_holds_at_the_limit_is_not_held_by_curvature():
    with pytest.raises(MeasurementError, match="no readings"):
        edge_of_stability(run_of(np.full(300, 1.0), lr_used=0.1))


def test_no_readings_are_an_error_that_says_what_to_record():
    with pytest.raises(MeasurementError, match="SharpnessProbe or Watch"):
        edge_of_stability(Run("x", {}, ({"step": 0, "loss": 1.0},)))


def test_a_detector_goes_on_from_its_state():
    rng = np.random.default_rng(3)
    headroom = [*np.linspace(0.2, 0.9, 50), *hovering(rng, 300), *np.linspace(1, 0.1, 200)]
    whole, first = EdgeDetector(), EdgeDetector()
    said = [whole.update(i, h) for i, h in enumerate(headroom)]
    assert {"reached", "left"} <= set(said)
    for stop in (30, 120, 400):
        first, second = EdgeDetector(), EdgeDetector()
        begun = [first.update(i, h) for i, h in enumerate(headroom[:stop])]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert begun + [second.update(i, h) for i, h in enumerate(headroom[stop:], stop)] == said
    assert EdgeDetector().update(0, float("nan")) is None


def test_labelled_runs_are_told_right():
    rng = np.random.default_rng(11)
    right = told = true = 0
    for kind in ("warmup", "edge", "decay", "below"):
        for _ in range(4):
            one = labelled.simulated(rng, kind=kind)
            found, last = edge_of_stability(one.run), labelled.STEPS - 1
            for step in range(labelled.STEPS):
                said = any(a <= step <= (last if b is None else b) for a, b in found.episodes)
                is_true = one.edge is not None and one.edge[0] <= step <= one.edge[1]
                told, true, right = told + said, true + is_true, right + (said and is_true)
    assert right / told >= 0.95
    assert right / true >= 0.9  # with a rate that falls it is left a little early


def test_real_full_batch_training_ends_at_the_edge():
    """Cohen et al. 2021: gradient descent sharpens until 2 / lr, and stays there."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(40, 8, generator=g, dtype=torch.float64)
    y = torch.sin(X @ torch.randn(8, 2, generator=g, dtype=torch.float64))

    def build(seed):
        return torch.nn.Sequential(torch.nn.Linear(8, 24), torch.nn.Tanh(), torch.nn.Linear(24, 2)).double()

    task = lrs.Task(build, lambda m, b: (m(b[0]) - b[1]).pow(2).mean(), [(X, y)], name="sine")
    high = lrs.schedules.Constant(0.6)
    run = train(task, "sgd(momentum=0)", high, 500, probes=[SharpnessProbe(task, every=5)])
    found = edge_of_stability(run)
    assert found.until is None
    assert found.share > 0.4
    assert found.mean == pytest.approx(1.0, abs=0.12)
    low = train(task, "sgd(momentum=0)", lrs.schedules.Constant(0.05), 200, probes=[SharpnessProbe(task, every=5)])
    assert edge_of_stability(low).since is None
