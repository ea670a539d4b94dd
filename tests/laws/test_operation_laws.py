"""What the operations on schedules promise, for any schedule."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from schedule_cases import (
    any_schedule,
    close,
    endless,
    finite,
    numbers,
    ordered,
    periods,
    positive,
    repeatable,
    same_bits,
    some_steps,
    steps,
)

laws = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
smooth = st.one_of(
    st.builds(lrs.Linear, numbers, numbers, st.integers(1, 40)),
    st.builds(lrs.Cosine, numbers, numbers, st.integers(1, 40)),
    st.builds(lambda s, n: s.first(n), st.builds(lrs.CosineWave, numbers, numbers, periods), st.integers(1, 40)),
    st.builds(lrs.Exponential, st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 40)),
)
"""Schedules without a jump, which may be asked for between their steps."""


@laws
@given(any_schedule, st.tuples(numbers, numbers))
def test_clip_keeps_within_bounds_and_changes_nothing_inside(s, bounds):
    low, high = min(bounds), max(bounds)
    values, clipped = s.values(60), s.clip(low, high).values(60)
    assert clipped.min() >= low
    assert clipped.max() <= high
    inside = (values >= low) & (values <= high)
    assert (clipped[inside] == values[inside]).all()
    assert (clipped[values < low] == low).all()
    assert (clipped[values > high] == high).all()
    assert s.clip(low, high).clip(low, high).values(60).tolist() == clipped.tolist()
    assert same_bits(s.clip(low=low).clip(high=high).values(60), clipped)
    assert s.clip(**ordered(bounds)).num_steps == s.num_steps


@laws
@given(any_schedule, steps)
def test_first_and_after_part_a_schedule(s, n):
    if s.num_steps is not None:
        n = min(n, s.num_steps)
    again = s.first(n).then(s.after(n))
    assert again.num_steps == s.num_steps
    assert same_bits(again.values(80), s.values(80))
    assert same_bits(s.first(n).values(), s.values(n))


@laws
@given(any_schedule, steps, some_steps)
def test_first_holds_and_after_goes_on(s, n, at):
    for t in at:
        assert same_bits(s.first(n)(t), s(min(t, n)))
        assert same_bits(s.after(n)(t), s(t + n))
    assert s.first(n).num_steps == n
    assert s.after(n).num_steps == (None if s.num_steps is None else max(s.num_steps - n, 0))


@laws
@given(any_schedule, steps, some_steps)
def test_shift_waits_and_shifting_back_changes_nothing(s, n, at):
    late = s.shift(n)
    assert [late(t) for t in range(n)] == [s(0)] * n
    assert late.num_steps == (None if s.num_steps is None else s.num_steps + n)
    for t in at:
        assert same_bits(late(t + n), s(t))
        assert same_bits(late.shift(-n)(t), s(t))
        assert same_bits(s.shift(-n)(t), s(t + n))


@laws
@given(finite, st.integers(2, 5))
def test_stretching_to_the_same_length_or_a_multiple_keeps_every_step(s, k):
    n = s.num_steps
    assert same_bits(s.stretch(n).values(n + 20), s.values(n + 20))
    slow = s.stretch(k * n)
    assert slow.num_steps == k * n
    assert same_bits([slow(k * t) for t in range(n + 20)], s.values(n + 20))


@laws
@given(finite, steps)
def test_a_stretched_schedule_ends_as_it_did(s, n):
    assert s.stretch(n).num_steps == n
    assert same_bits([s.stretch(n)(t) for t in (n, n + 1, n + 10**9)], [s(s.num_steps)] * 3)


@laws
@given(smooth, st.integers(1, 60), st.integers(1, 60))
def test_stretching_twice_is_stretching_once(s, a, b):
    assert s.stretch(a).stretch(b) == s.stretch(b)
    assert s.stretch(a).stretch(s.num_steps) == s.stretch(s.num_steps)
    assert close(lrs.Stretch(lrs.Stretch(s, a), b).values(80), s.stretch(b).values(80), rtol=1e-9)


@laws
@given(smooth, st.integers(1, 60))
def test_a_stretched_schedule_is_the_schedule_at_the_same_share(s, n):
    scale = s.num_steps / n
    between = s._at(np.arange(n) * scale)
    assert close(s.stretch(n).values(), between, rtol=1e-9)


def test_whole_steps_stay_whole_however_long_the_run():
    """The product of two step counts leaves the whole numbers of float64 long before 2**53."""
    edges = lrs.Piecewise((1.0, 2.0, 3.0), (333_333_333, 700_000_001), 10**9 + 7)
    for k in (1, 2, 3, 7):
        slow = edges.stretch(k * edges.num_steps)
        assert [slow(k * b) for b in edges.boundaries] == [2.0, 3.0]
        assert [slow(k * b - 1) for b in edges.boundaries] == [1.0, 2.0]
    n, edge = 6_727_091_393, 3_755_315_235  # here edge * n / n is less than edge in float64
    assert float(edge) * n / n < edge
    assert lrs.Piecewise((1.0, 2.0), (edge,), n).stretch(n)(edge) == 2.0
    assert edges.stretch(5).stretch(edges.num_steps)(333_333_333) == 2.0


@laws
@given(finite, st.integers(0, 5), some_steps)
def test_repeat_is_periodic_and_ends_as_the_schedule_does(s, times, at):
    s = repeatable(s)
    n = s.num_steps
    for t in at:
        assert same_bits(s.repeat()(t), s(t % n))
        assert same_bits(s.repeat(times)(t), s(t % n) if t < times * n else s(n))
        assert same_bits(s.repeat()(t + 10**6 * n), s.repeat()(t))
    assert s.repeat(times).num_steps == times * n
    assert s.repeat().num_steps is None
    assert same_bits(s.repeat(3).values(4 * n), s.then(s).then(s).values(4 * n))


@laws
@given(finite)
def test_reversed_twice_is_the_schedule(s):
    n = s.num_steps
    assert same_bits(s.reverse().reverse().values(n + 9), s.values(n + 9))
    assert same_bits(s.reverse().values(n + 1), s.values(n + 1)[::-1])
    assert s.reverse()(n + 5) == s(0)


@laws
@given(finite, st.integers(1, 10**6))
def test_the_four_ends(s, past):
    n = s.num_steps
    assert s.with_end("hold") is s
    zero, error = s.with_end("zero"), s.with_end("error")
    assert zero(n) == zero(n + past) == 0.0
    for other in (zero, error):
        assert same_bits(other.values(n), s.values(n))
    assert error.num_steps == n
    assert same_bits(error(n), s(n))
    with pytest.raises(ScheduleError, match=f"step {n + past} is past the end") as caught:
        error(n + past)
    assert "\n" not in str(caught.value)
    if n:
        assert same_bits(s.with_end("repeat")(n + past), s(past % n))


@laws
@given(
    any_schedule, steps, st.integers(1, 20), st.sampled_from(["linear", "cosine", "sqrt", "exponential"]), positive
)
def test_a_cooldown_begins_at_the_schedules_value(s, at, n, shape, end):
    assume(s(at) != end and (shape != "exponential" or s(at) > 0))
    cooled = s.cool_down(at, n, shape, end)
    assert same_bits(cooled.values(at), s.values(at))
    assert cooled(at) == pytest.approx(s(at), rel=1e-15)
    assert cooled.num_steps == at + n
    assert cooled(at + n) == end
    tail = cooled.values()[at:]
    path = np.diff(np.append(tail, end))
    tiny = 1e-15 * max(abs(s(at)), end)
    assert (path >= -tiny).all() if end >= s(at) else (path <= tiny).all()


def formula(shape, start, end, x):
    return {
        "linear": start + (end - start) * x,
        "cosine": end + (start - end) * (1 + math.cos(math.pi * x)) / 2,
        "sqrt": end + (start - end) * (1 - math.sqrt(x)),
        "exponential": start ** (1 - x) * end**x if end > 0 else math.nan,
    }[shape]


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt", "exponential"])
def test_a_cooldown_has_its_formula(shape):
    cooled = lrs.Constant(0.8).cool_down(100, 40, shape, end=0.01)
    for t in range(40):
        assert cooled(100 + t) == pytest.approx(formula(shape, 0.8, 0.01, t / 40), rel=1e-13)


@laws
@given(endless)
def test_what_needs_an_end_says_how_to_get_one(s):
    for build in (lambda: s.stretch(5), s.repeat, s.reverse, lambda: s.with_end("error"), lambda: s.repeat(2)):
        with pytest.raises(ScheduleError, match=r"never ends; cut it first, as in \.first\(1000\)") as caught:
            build()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: s.clip(), "Clip: needs low, high or both"),
        (lambda s: s.clip(2, 1), "Clip: low must not be above high, got 2 and 1"),
        (lambda s: s.clip("a"), "Clip: low must be a number, got 'a'"),
        (lambda s: s.first(-1), "First: steps must be a whole number of steps, 0 or more.*-1"),
        (lambda s: s.after(1.5), "After: steps must be a whole number"),
        (lambda s: s.shift(2.0), "shift: steps must be a whole number"),
        (lambda s: s.stretch(True), "Stretch: steps must be a whole number.*True"),
        (lambda s: s.repeat(-2), "Repeat: times must be a whole number.*-2"),
        (lambda s: s.repeat(2**52), r"Repeat: more than 2\*\*53 steps"),
        (lambda s: lrs.Linear(1, 0, 0).repeat(), r"Repeat: Linear\(1.0, 0.0, 0\) has no steps to repeat"),
        (lambda s: s.with_end("hodl"), "with_end: unknown end 'hodl'; did you mean 'hold'"),
        (lambda s: s.with_end(["hold"]), r"with_end: unknown end \['hold'\]; did you mean 'hold'"),
        (lambda s: s.cool_down(2, 3, ["sqrt"]), r"cooldown: unknown shape \['sqrt'\]"),
        (lambda s: s.cool_down(2, 3, "sqr"), "cooldown: unknown shape 'sqr'; did you mean 'sqrt'"),
        (lambda s: s.cool_down(2, 3, "exponential"), "Exponential: end must be greater than 0"),
        (lambda s: lrs.Reverse(3), "Reverse: schedule must be a Schedule, got 3"),
        (lambda s: s.with_end("error")(11), r"step 11 is past the end of Linear\(1.0, 0.0, 10\), which has 10 steps"),
    ],
)
def test_each_refusal_is_one_line(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build(lrs.Linear(1.0, 0.0, 10))
    assert "\n" not in str(caught.value)
