"""Changing a plan in the middle of a run: the past stays, and what was to be kept is kept."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.schedules.replan import largest
from schedule_cases import any_schedule, close, finite, same_bits, steps

laws = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def replanned(old, new, at, keep):
    """The changed plan; where scaling would go above both plans, that it is refused."""
    scaled = keep == "lr" and old(at) != new(at)
    most = max(largest(old), largest(new))
    if scaled and largest((old(at) / new(at)) * new.after(at)) > most * (1 + 1e-9):
        with pytest.raises(ScheduleError, match="neither plan goes above"):
            lrs.replan(old, new, at=at, keep=keep)
        assume(False)
    return lrs.replan(old, new, at=at, keep=keep)


@laws
@given(any_schedule, any_schedule, steps, st.sampled_from(["lr", "fraction", "shape"]))
def test_history_is_untouched_and_the_jump_is_told(old, new, at, keep):
    if keep == "fraction":
        assume(None not in (old.num_steps, new.num_steps) and at < min(old.num_steps, new.num_steps))
    if keep == "lr":
        assume(old(at) == new(at) or (old(at) != 0 and abs(new(at)) > 1e-9))
    changed = replanned(old, new, at, keep)
    assert same_bits(changed.schedule.values(at), old.values(at))
    assert changed.before == old(at)
    assert changed.after == changed.schedule(at)
    told = str(changed).splitlines()
    assert told[0].startswith(f"replanned at step {at}: factor {changed.before:.6g} -> {changed.after:.6g}, ")
    assert ("no jump" in told[0]) == bool(np.isclose(changed.before, changed.after, rtol=1e-9, atol=0))
    assert len(told) == 3


@laws
@given(any_schedule, any_schedule, steps)
def test_keeping_the_rate_scales_the_rest(old, new, at):
    assume(abs(old(at)) > 1e-20 and abs(new(at)) > 1e-9)
    changed = replanned(old, new, at, "lr").schedule
    assert changed(at) == pytest.approx(old(at), rel=1e-15)
    scale = old(at) / new(at)
    assert close(changed.values(60)[at:], scale * new.values(60)[at:] if at < 60 else [])


@laws
@given(any_schedule, any_schedule, steps)
def test_keeping_the_shape_is_the_new_plan_from_here_on(old, new, at):
    changed = lrs.replan(old, new, at=at, keep="shape").schedule
    assert same_bits(changed.values(80)[at:], new.values(80)[at:])
    assert changed.num_steps == (None if new.num_steps is None else max(at, new.num_steps))


@laws
@given(finite, finite, steps)
def test_keeping_the_fraction_ends_as_the_new_plan_does(old, new, at):
    assume(at < min(old.num_steps, new.num_steps))
    changed = lrs.replan(old, new, at=at, keep="fraction").schedule
    assert changed.num_steps == new.num_steps
    assert same_bits(changed(new.num_steps), new(new.num_steps))


@laws
@given(finite, st.integers(1, 60), steps)
def test_another_length_at_the_same_fraction_does_not_jump(old, length, at):
    assume(at < min(old.num_steps, length))
    changed = lrs.replan(old, length, at=at, keep="fraction")
    assert same_bits(changed.after, changed.before)
    assert changed.schedule.num_steps == length
    assert "no jump" in str(changed)


@pytest.mark.parametrize(("old", "new", "at"), [(10_000, 30_000, 3_333), (10_000, 7_001, 5_000), (9, 1_000, 8)])
def test_a_line_to_zero_at_the_same_fraction_is_a_line_with_a_bend(old, new, at):
    s = lrs.replan(lrs.Linear(1.0, 0.0, old), new, at=at, keep="fraction").schedule
    here = 1 - at / old
    for t in (at, at + 1, (at + new) // 2, new - 1, new, new + 5):
        assert s(t) == pytest.approx(here * max(new - t, 0) / (new - at), abs=1e-12)


def test_a_longer_cosine_by_each_of_the_three():
    old = lrs.warmup(10).then(lrs.Cosine(1.0, 0.0, 90))
    new = lrs.warmup(10).then(lrs.Cosine(1.0, 0.0, 190))
    at = 60
    kept = {keep: lrs.replan(old, new, at=at, keep=keep) for keep in ("lr", "fraction", "shape")}
    assert kept["lr"].after == pytest.approx(old(at), rel=1e-15)
    assert kept["lr"].schedule(130) == pytest.approx(old(at) * new(130) / new(at), rel=1e-14)
    assert kept["shape"].after == new(at)
    assert f"a jump ({new(at) / old(at):.4g} times)" in str(kept["shape"])
    assert kept["fraction"].after == pytest.approx(new._at(np.array([at * 200 / 100]))[0], rel=1e-14)
    assert {k.schedule.num_steps for k in kept.values()} == {200}


def test_both_curves_are_drawn_to_one_height_and_past_a_bounded_end():
    old = lrs.Linear(1.0, 0.0, 50).with_end("error")
    told = str(lrs.replan(old, lrs.Linear(2.0, 0.0, 100), at=10, keep="shape")).splitlines()
    assert told[0] == "replanned at step 10: factor 0.8 -> 1.8, a jump (2.25 times); at most 1.8 from here on"
    assert told[1].endswith(" 50 steps")
    assert told[2].endswith(" 100 steps")
    assert "█" not in told[1]
    assert "█" in told[2]
    assert "never ends" in str(lrs.replan(lrs.Constant(1.0), lrs.Linear(1, 0, 9), at=3, keep="shape"))


def test_a_run_may_be_replanned_often():
    s = lrs.warmup(5).then(lrs.Cosine(1.0, 0.0, 95))
    for i in range(8):
        s = lrs.replan(s, 110 + 10 * i, at=10 + 5 * i, keep="fraction").schedule
    assert lrs.from_spec(s.to_spec()) == s
    values = s.values()
    assert len(values) == 180
    assert np.abs(np.diff(values[6:])).max() < 0.05


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: lrs.replan(s, 20, at=10, keep="lr"), "the old one is 0 at step 10; use keep="),
        (
            lambda s: lrs.replan(s, lrs.Linear(0.0, 1.0, 9).shift(4), at=4, keep="lr"),
            "the new one is 0 at step 4; use",
        ),
        (lambda s: lrs.replan(s, 20, at=10, keep="fraction"), "at step 10, but a schedule ends at step 10"),
        (lambda s: lrs.replan(s, 5, at=7, keep="fraction"), "at step 7, but a schedule ends at step 5"),
        (lambda s: lrs.replan(s, lrs.Constant(1.0), at=7, keep="fraction"), "needs two schedules that end"),
        (lambda s: lrs.replan(s, 20, at=5, keep="rate"), "unknown keep 'rate'; .*allowed: fraction, lr, shape"),
        (lambda s: lrs.replan(s, 0, at=5, keep="lr"), "replan: new must be a whole number of steps, 1 or more"),
        (lambda s: lrs.replan(s, 9, at=-1, keep="lr"), "replan: at must be a whole number of steps, 0 or more"),
        (lambda s: lrs.replan(lrs.Constant(1.0), 9, at=3, keep="lr"), "Stretch: .*never ends"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build(lrs.Linear(1.0, 0.0, 10))
    assert "\n" not in str(caught.value)


def test_at_step_0_the_new_plan_is_the_plan():
    new = lrs.Cosine(1.0, 0.0, 30)
    for keep in ("lr", "shape", "fraction"):
        s = lrs.replan(lrs.Linear(1.0, 0.0, 10), new, at=0, keep=keep).schedule
        assert close(s.values(40), new.values(40))


def test_a_rate_in_the_middle_of_the_old_warmup_is_not_scaled_into_the_new_one():
    """Six percent of a longer run is a longer warmup, and the old rate would become its first steps'."""
    old, new = (lrs.parse("warmup(20%) > cosine(to=0)", n) for n in (20, 360))
    with pytest.raises(
        ScheduleError, match=r'keep="lr" at step 3 would scale the new schedule by 18, up to a factor of 18'
    ):
        lrs.replan(old, new, at=3, keep="lr")
