"""What every schedule obeys, whatever it is built from."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from schedule_cases import any_schedule, endless, far, finite, numbers, same_bits, some_steps

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(relaxed, max_examples=2000)
fast = settings(relaxed, max_examples=300)


def around_the_end(s):
    """Steps near the places where something may change."""
    n = s.num_steps or 0
    return [0, 1, max(n - 1, 0), n, n + 1]


@thorough
@given(finite, finite, any_schedule)
def test_then_is_associative_and_wrapping_changes_nothing(a, b, c):
    joined = a.then(b).then(c)
    assert joined == a.then(b.then(c)) == lrs.Join((lrs.Join((a, b)), c)) == lrs.Join((a, lrs.Join((b, c))))
    n, m = a.num_steps, b.num_steps
    assert joined.num_steps == (None if c.num_steps is None else n + m + c.num_steps)
    assert same_bits(joined.values(n + m + 9), np.concatenate([a.values(), b.values(), c.values(9)]))


@thorough
@given(any_schedule)
def test_it_is_stored_written_printed_and_pickled(s):
    back = lrs.from_spec(json.loads(json.dumps(s.to_spec())))
    assert back == s
    assert back.to_spec() == s.to_spec()
    assert same_bits(back.values(40), s.values(40))
    assert lrs.parse(s.to_text()) == s
    assert eval(repr(s), vars(lrs)) == s
    copy = pickle.loads(pickle.dumps(s))
    assert copy == s
    assert hash(copy) == hash(s) == hash(back)
    assert s.clip(low=0.0) != s


@thorough
@given(any_schedule, some_steps)
def test_a_scalar_has_the_bits_of_the_table(s, at):
    at = [*at, *around_the_end(s)]
    table = s.values(max(at) + 1)
    assert same_bits([s(t) for t in at], table[at])
    assert np.isfinite(table).all()


@thorough
@given(any_schedule, st.lists(st.integers(0, 4000), max_size=3), st.booleans())
def test_a_lookup_has_the_bits_of_the_schedule(s, jumps, back):
    read = lrs.Lookup(s)
    jumps = [*around_the_end(s), *jumps]
    for t in reversed(jumps) if back else jumps:
        for step in (t, t + 1, max(t - 1, 0)):
            assert same_bits(read(step), s(step))


@fast
@given(finite, st.lists(st.integers(0, 2000), min_size=1, max_size=8))
def test_a_lookup_stops_where_a_bounded_schedule_does(s, jumps):
    bounded = s.with_end("error")
    read, n = lrs.Lookup(bounded), s.num_steps
    for t in [*jumps, n, *range(max(n - 20, 0), n + 1)]:
        if t <= n:
            assert same_bits(read(t), s(t))
        else:
            with pytest.raises(ScheduleError, match="past the end"):
                read(t)


@fast
@given(any_schedule)
def test_a_lookup_walks_a_run(s):
    read = lrs.Lookup(s)
    assert same_bits([read(t) for t in range(2100)], s.values(2100))


@fast
@given(finite, st.integers(0, 2**50))
def test_the_end_value_is_held(s, beyond):
    assert same_bits(s(s.num_steps + beyond), s(s.num_steps))
    assert s.values().shape == (s.num_steps,)


@thorough
@given(any_schedule, far)
def test_the_value_is_finite_at_any_step(s, t):
    assert np.isfinite(s(t))


@fast
@given(any_schedule, any_schedule, numbers, some_steps)
def test_sums_and_products_are_pointwise_and_commute(a, b, c, at):
    assert [(a * b)(t) for t in at] == [a(t) * b(t) for t in at] == [(b * a)(t) for t in at]
    assert [(a + b)(t) for t in at] == [a(t) + b(t) for t in at] == [(b + a)(t) for t in at]
    assert [(c * a)(t) for t in at] == [c * a(t) for t in at]
    assert [(c + a)(t) for t in at] == [c + a(t) for t in at]
    for whole in (a * b, a + b):
        ends = (a.num_steps, b.num_steps)
        if None not in ends:
            assert whole.num_steps == max(ends)
    if a.num_steps is not None:
        assert (c * a).num_steps == (a * c).num_steps == (c + a).num_steps == (a + c).num_steps == a.num_steps


@fast
@given(any_schedule, any_schedule, any_schedule, some_steps)
def test_sums_and_products_are_left_to_right(a, b, c, at):
    assert (a * b) * c == lrs.Product((a, b, c))
    assert (a + b) + c == lrs.Sum((a, b, c))
    assert [(a * b * c)(t) for t in at] == [a(t) * b(t) * c(t) for t in at]
    assert [(a + b + c)(t) for t in at] == [a(t) + b(t) + c(t) for t in at]


extreme = st.sampled_from([0.0, 1.0, -1.0, 1e30, -1e30, 1e-300, 5e-324, -5e-324, 0.3])
above_0 = st.sampled_from([5e-324, 1e-300, 1e-30, 1 - 1e-16, 1.0, 1 + 3e-16, 1.5, 1e15, 1e30])
long = st.sampled_from([0, 1, 2, 10**9 + 7, 2**52, 2**53 - 1, 2**53])
periods = st.sampled_from([1.1e-9, 1e-3, 1 / 3, 1.0, 7.0, 66.7, 1e9, 2.0**53, 1e30])
mults = st.sampled_from([1.0, 1 + 2.3e-16, 1 + 1e-7, 1.1, 1.5, 2.0, 1e15, 1e30])
maybe_long = st.none() | long
extremes = st.one_of(
    st.builds(lrs.Linear, extreme, extreme, long),
    st.builds(lrs.Cosine, extreme, extreme, long),
    st.builds(lrs.Sqrt, extreme, extreme, long),
    st.builds(lrs.Polynomial, extreme, extreme, long, above_0),
    st.builds(lrs.Exponential, above_0, above_0, long),
    st.builds(lrs.InverseSqrt, extreme, st.sampled_from([1, 2**53]), maybe_long),
    st.builds(lambda a, b: lrs.Piecewise((a, b), (2**53,)), extreme, extreme),
    st.builds(lambda a, b: lrs.Table((a, b)).stretch(2**53), extreme, extreme),
    st.builds(lrs.ExponentialWarmup, st.sampled_from([1.1e-9, 1.0, 1e9, 2.3e14])),
    st.builds(lrs.StepDecay, above_0, st.sampled_from([1, 7, 2**53]), maybe_long),
    st.builds(lrs.CosineWave, extreme, extreme, periods, maybe_long),
    st.builds(lrs.WarmRestarts, extreme, extreme, periods, mults, above_0, maybe_long),
)


def operated_on(inner):
    ended = inner.map(lambda s: s if s.num_steps else s.first(2**53))
    return st.one_of(
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda s, n: s.after(n), inner, long),
        st.builds(lambda s, n: s.stretch(n), ended, long),
        st.builds(lambda s: s.repeat(), ended),
        st.builds(lambda s: s.reverse(), ended),
    )


@pytest.mark.filterwarnings("error")
@thorough
@given(st.recursive(extremes, operated_on, max_leaves=3), st.lists(far, min_size=1, max_size=4))
def test_the_value_is_finite_at_any_step_also_for_extreme_numbers(s, at):
    values = [s(t) for t in at]
    assert np.isfinite(values).all()
    assert same_bits(values, s._at(np.array(at, np.float64)))
    assert lrs.from_spec(json.loads(json.dumps(s.to_spec()))) == s == lrs.parse(s.to_text())
    assert eval(repr(s), vars(lrs)) == s


huge = st.sampled_from([1e30, -1e30, 1e-30, 0.0])


@fast
@given(st.lists(huge, min_size=2, max_size=30), finite, far)
def test_too_large_a_result_is_the_largest_number(values, s, t):
    product, total = lrs.Constant(values[0]) * s, lrs.Constant(values[0]) + s
    for value in values[1:]:
        product, total = product * value, total + value
    assert np.isfinite([product(t), total(t), (product * product)(t), (product + product)(t)]).all()


def test_too_large_a_product_keeps_its_sign():
    large = lrs.Product((lrs.Constant(1e30),) * 11)
    assert large(0) == np.finfo(float).max
    assert (-1.0 * large)(0) == -np.finfo(float).max
    assert (0.0 * large)(0) == 0.0
    assert (large + large)(0) == large(0)


@fast
@given(st.lists(st.floats(1.01, 30), min_size=1, max_size=3), st.integers(100, 5000))
def test_percentages_leave_no_gap(percentages, horizon):
    text = " > ".join(f"linear({p!r}%)" for p in percentages)
    s = lrs.parse(f"{text} > cosine(to=0)", horizon)
    assert s.num_steps == horizon


@fast
@given(endless)
def test_what_never_ends_says_so(s):
    assert s.num_steps is None
    with pytest.raises(ScheduleError, match="never ends"):
        s.values()
    with pytest.raises(ScheduleError, match=r"part 0 .* never ends, so part 1 is unreachable"):
        s.then(1.0)


def test_nesting_ends_where_storing_would():
    s = lrs.Linear(1.0, 0.0, 5)
    for _ in range(49):
        s = s.reverse()
    assert s.nesting == 49
    assert s(1) == lrs.Linear(1.0, 0.0, 5)(4)
    assert lrs.from_spec(s.to_spec()) == s == lrs.parse(s.to_text()) == eval(repr(s), vars(lrs))
    assert pickle.loads(pickle.dumps(s)) == s
    deepest = s.schedule.then(0.0)  # every kind of node counts as one
    for deeper in (lambda: s.clip(low=0), lambda: s.then(0.0), lambda: s * s, lambda: 1.0 + s, lambda: deepest * 2.0):
        with pytest.raises(ScheduleError, match=r"more than 49 deep; .*Table\(tuple") as caught:
            deeper()
        assert "\n" not in str(caught.value)
