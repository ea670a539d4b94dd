"""Plateau against PyTorch's, side by side, and its state as plain data."""

import dataclasses
import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)) | st.just(math.nan), max_size=60),
    st.sampled_from(["min", "max"]),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.01, 0.2]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.0, 0.1, 0.25]),
)
def test_it_is_the_plateau_of_torch(seen, mode, relative, patience, cooldown, threshold, low, eps):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        opt, mode, 0.5, patience, threshold, "rel" if relative else "abs", cooldown, low, eps
    )
    ours = lrs.Plateau("metric", 0.5, patience, threshold, mode, relative, cooldown, low, eps)
    state = ours.init()
    for step, metric in enumerate(seen):
        theirs.step(metric)
        state = ours.update(state, step, {"metric": metric})
        assert ours.value(state, step) == opt.param_groups[0]["lr"]


def test_the_state_is_plain_data_and_going_on_from_it_is_exact():
    plateau, rng = lrs.Plateau(patience=2, cooldown=1), random.Random(0)
    seen = [rng.random() for _ in range(50)]
    state, values = plateau.init(), []
    for step, loss in enumerate(seen):
        before = dict(state)
        new = plateau.update(state, step, {"loss": loss, "other": 0.0})
        assert state == before  # the old one is left as it was
        state = json.loads(json.dumps(new))
        values.append(plateau.value(state, step))
    again = plateau.init()
    for step, loss in enumerate(seen):
        again = plateau.update(again, step, {"loss": loss})
        assert plateau.value(again, step) == values[step]
    assert values[-1] < 1.0
    assert values == sorted(values, reverse=True)


def test_its_spec_tells_it_from_another():
    spec = lrs.Plateau(factor=0.5).to_spec()
    assert json.loads(json.dumps(spec)) == spec
    assert spec["kind"] == "plateau"
    assert spec != lrs.Plateau(factor=0.2).to_spec()
    assert set(spec) == {"kind", *(f.name for f in dataclasses.fields(lrs.Plateau))}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.Plateau(factor=1.0), "Plateau: factor must be between 0 and 1, got 1"),
        (lambda: lrs.Plateau(factor=0), "Plateau: factor must be between 0 and 1, got 0"),
        (lambda: lrs.Plateau(factor="a"), "Plateau: factor must be a number"),
        (lambda: lrs.Plateau(patience=-1), "Plateau: patience must be a whole number"),
        (lambda: lrs.Plateau(cooldown=1.5), "Plateau: cooldown must be a whole number"),
        (lambda: lrs.Plateau(threshold=-1), "Plateau: threshold must be 0 or more, got -1"),
        (lambda: lrs.Plateau(low=math.nan), "Plateau: low must be finite"),
        (lambda: lrs.Plateau(mode="mean"), "Plateau: unknown mode 'mean'; .*allowed: max, min"),
        (
            lambda: lrs.Plateau().update(lrs.Plateau().init(), 0, {"los": 1.0}),
            "'loss' was not observed; did you mean 'los'",
        ),
        (
            lambda: lrs.Plateau().update(lrs.Plateau().init(), 0, {"loss": "x"}),
            "Plateau: loss must be a number, got 'x'",
        ),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
