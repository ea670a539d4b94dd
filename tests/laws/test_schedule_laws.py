"""What every schedule obeys, whatever it is built from."""

import json
import pickle
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.floats(-100, 100, allow_subnormal=False)
positive = st.floats(1e-6, 100)
steps = st.integers(0, 40)
maybe_steps = st.none() | steps


@st.composite
def piecewise(draw, length):
    bounds = tuple(sorted(draw(st.sets(st.integers(1, 30), max_size=4))))
    levels = tuple(draw(st.lists(numbers, min_size=len(bounds) + 1, max_size=len(bounds) + 1)))
    extra = draw(length)
    return lrs.Piecewise(levels, bounds, None if extra is None else extra + 30)


def shapes(length):
    return st.one_of(
        st.builds(lrs.Constant, numbers, length),
        st.builds(lrs.Linear, numbers, numbers, steps),
        st.builds(lrs.Cosine, numbers, numbers, steps),
        st.builds(lrs.Sqrt, numbers, numbers, steps),
        st.builds(lrs.Polynomial, numbers, numbers, steps, st.floats(0.1, 5)),
        st.builds(lrs.Exponential, positive, positive, steps),
        st.builds(lrs.InverseSqrt, numbers, st.integers(1, 100), length),
        piecewise(length),
    )


def grow(parts):
    return st.one_of(
        st.tuples(parts, parts).map(lambda p: p[0].then(p[1])),
        st.tuples(parts, parts).map(lambda p: p[0] * p[1]),
    )


finite = st.recursive(shapes(steps), grow, max_leaves=5)
any_schedule = st.one_of(
    finite,
    shapes(maybe_steps),
    st.tuples(finite, shapes(maybe_steps)).map(lambda p: p[0].then(p[1])),
    st.tuples(numbers, finite).map(lambda p: p[0] * p[1]),
)
some_steps = st.lists(st.integers(0, 200), min_size=1, max_size=5)


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.int64), np.asarray(b).view(np.int64))


@fast
@given(finite, finite, any_schedule)
def test_then_is_associative(a, b, c):
    assert a.then(b).then(c) == a.then(b.then(c))


@fast
@given(finite, any_schedule)
def test_a_join_runs_each_part_from_its_own_step_0(a, b):
    joined, n = a.then(b), a.num_steps
    assert same_bits(joined.values(n + 50), np.concatenate([a.values(), b.values(50)]))


@fast
@given(finite, finite)
def test_wrapping_changes_nothing(a, b):
    assert lrs.Join((lrs.Join((a, b)), lrs.Constant(0.0))) == lrs.Join((a, b, lrs.Constant(0.0)))


@fast
@given(any_schedule, any_schedule, some_steps)
def test_a_product_is_pointwise(a, b, at):
    assert [(a * b)(t) for t in at] == [a(t) * b(t) for t in at]


@fast
@given(any_schedule, numbers, some_steps)
def test_a_number_scales(a, c, at):
    assert [(c * a)(t) for t in at] == [c * a(t) for t in at]
    if a.num_steps is not None:
        assert (c * a).num_steps == a.num_steps == (a * c).num_steps


@fast
@given(any_schedule)
def test_a_scalar_has_the_bits_of_the_table(s):
    assert same_bits([s(t) for t in range(90)], s.values(90))


@fast
@given(finite, st.integers(0, 10**9))
def test_the_end_value_is_held(s, beyond):
    assert s(s.num_steps + beyond) == s(s.num_steps)
    assert s.values().shape == (s.num_steps,)


@fast
@given(any_schedule)
def test_the_values_are_finite(s):
    assert np.isfinite(s.values(100)).all()


@fast
@given(any_schedule)
def test_a_spec_round_trips(s):
    back = lrs.from_spec(json.loads(json.dumps(s.to_spec())))
    assert back == s
    assert same_bits(back.values(60), s.values(60))


@fast
@given(any_schedule)
def test_text_round_trips(s):
    back = lrs.parse(s.to_text())
    assert back == s
    assert same_bits(back.values(60), s.values(60))


@fast
@given(any_schedule)
def test_the_repr_evaluates_back(s):
    assert eval(repr(s), vars(lrs)) == s


@fast
@given(any_schedule)
def test_pickle_equality_and_hash(s):
    back = pickle.loads(pickle.dumps(s))
    assert back == s
    assert hash(back) == hash(s)
    assert back.then(0.5) != back if s.num_steps is not None else True


@fast
@given(st.lists(st.floats(1.01, 30), min_size=1, max_size=3), st.integers(100, 5000))
def test_percentages_leave_no_gap(percentages, horizon):
    text = " > ".join(f"linear({p!r}%)" for p in percentages)
    s = lrs.parse(f"{text} > cosine(to=0)", horizon)
    assert s.num_steps == horizon


WORDS = [*"()[],=>*% ", "warmup", "cosine", "linear", "exp", "poly", "piecewise", "constant", "inverse_sqrt"]
WORDS += ["to", "from", "at", "values", "power", "value", "timescale", "6", "0.5", "1e-3", "-2", "epochs", "tokens"]
almost_text = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.lists(
    st.sampled_from(WORDS), max_size=25
).map("".join)
HORIZONS = st.sampled_from([None, lrs.Horizon(100, 10, 64.0), lrs.Horizon(7)])


def one_line_error_or(build):
    start = time.perf_counter()
    try:
        outcome = build()
    except ScheduleError as error:
        outcome = str(error)
    took = time.perf_counter() - start
    assert isinstance(outcome, lrs.Schedule) or (outcome and "\n" not in outcome)
    return took


@settings(fast, max_examples=300)
@given(st.text(max_size=60) | almost_text, HORIZONS)
def test_any_text_is_a_schedule_or_a_one_line_error(text, horizon):
    one_line_error_or(lambda: lrs.parse(text, horizon))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9_000,
        "a" * 9_999,
        "warmup(" * 1_400,
        "1e" * 5_000,
        "9" * 9_000,
        "_" * 9_000,
        "cosine(1) > " * 800,
        "1 * " * 2_400,
        "[" * 9_000,
        "warmup(1e-9999999%)",
        "x" * 10**6,
        "cosine(9007199254740992 tokens)",
        "-" * 9_000,
    ],
)
def test_long_garbage_is_refused_at_once(text):
    took = min(one_line_error_or(lambda: lrs.parse(text, lrs.Horizon(100, 10, 64.0))) for _ in range(3))
    assert took < 0.05


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["kind", "start", "end", "steps", "value", "parts", "factors", "power", "levels", "boundaries", "timescale"]


@settings(fast, max_examples=200)
@given(any_schedule, st.sampled_from(KEYS), json_values)
def test_any_spec_is_a_schedule_or_a_one_line_error(s, key, value):
    one_line_error_or(lambda: lrs.from_spec({**s.to_spec(), key: value}))
    one_line_error_or(lambda: lrs.from_spec(value))


def test_a_deep_spec_is_refused():
    spec = {"kind": "constant", "value": 1.0, "steps": 1}
    for _ in range(3_000):
        spec = {"kind": "product", "factors": [spec, spec]}
    with pytest.raises(ScheduleError, match="deep"):
        lrs.from_spec(spec)
