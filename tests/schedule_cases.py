"""Generated schedules: every shape, operation and recipe, small and cheap to build."""

import numpy as np
from hypothesis import strategies as st

from lrscope import schedules as lrs

numbers = st.sampled_from([0.0, 1.0, -1.0, 0.1, 3e-4]) | st.floats(-100, 100, allow_subnormal=False)
positive = st.floats(1e-6, 100)
factors = st.floats(0.2, 1.5)
periods = st.sampled_from([1.0, 2.0, 3.0, 2.5]) | st.floats(0.5, 20)
steps = st.integers(0, 20)
some_steps = st.lists(st.integers(0, 90), min_size=1, max_size=5)
far = st.integers(0, 2**53) | st.sampled_from([0, 1, 10**9, 2**53 - 1, 2**53])


@st.composite
def piecewise(draw, length):
    bounds = tuple(sorted(draw(st.sets(st.integers(1, 15), max_size=3))))
    levels = tuple(draw(numbers) for _ in range(len(bounds) + 1))
    extra = draw(length)
    return lrs.Piecewise(levels, bounds, None if extra is None else extra + 15)


@st.composite
def wsd(draw):
    up, flat, down = draw(st.tuples(steps, steps, steps))
    shape = draw(st.sampled_from(["linear", "cosine", "sqrt", "exponential"]))
    return lrs.wsd(max(up - 1, 0) + flat + down, warmup=up, cooldown=down, shape=shape, end=draw(positive))


def endless_shapes(length):
    """Shapes that never end where ``length`` gives None."""
    return st.one_of(
        st.builds(lrs.Constant, numbers, length),
        st.builds(lrs.InverseSqrt, numbers, st.integers(1, 100), length),
        piecewise(length),
        st.builds(lrs.StepDecay, factors, st.integers(1, 9), length),
        st.builds(lrs.CosineWave, numbers, numbers, periods, length),
        st.builds(lrs.WarmRestarts, numbers, numbers, periods, st.sampled_from([1, 1.5, 2, 3.7]), factors, length),
    )


ended_shapes = st.one_of(
    endless_shapes(steps),
    st.builds(lrs.Linear, numbers, numbers, steps),
    st.builds(lrs.Cosine, numbers, numbers, steps),
    st.builds(lrs.Sqrt, numbers, numbers, steps),
    st.builds(lrs.Polynomial, numbers, numbers, steps, st.floats(0.1, 5)),
    st.builds(lrs.Exponential, positive, positive, steps),
    st.builds(lrs.Table, st.lists(numbers, min_size=1, max_size=6).map(tuple)),
    st.builds(lrs.ExponentialWarmup, st.floats(0.01, 0.5)),
)
recipes = st.one_of(
    wsd(),
    st.builds(lrs.nonzero_warmup, steps),
    st.builds(lrs.untuned_linear_warmup, st.floats(0, 0.9)),
    st.builds(lrs.untuned_exponential_warmup, st.floats(0, 0.3)),
    st.builds(lambda n, p, shape: lrs.one_cycle(n, peak_at=p, shape=shape)["lr"], st.integers(2, 20), st.floats(0, 1),
              st.sampled_from(["cosine", "linear"])),
)  # fmt: skip
cycles = st.one_of(
    st.builds(
        lambda low, high, up, down, cycle, step: lrs.triangular(low, high, up, down, cycle_decay=cycle, step_decay=step),
        numbers, numbers, st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 0.5]), st.sampled_from([1.0, 0.9]),
    ),
    st.builds(lrs.multistep, st.sets(st.integers(1, 30), max_size=3).map(sorted), factors),
)  # fmt: skip


def repeatable(s):
    return s if s.num_steps else lrs.Constant(s(0), 3)


def ordered(bounds):
    return {"low": min(bounds), "high": max(bounds)}


def operations(inner):
    """Every operation on a schedule that ends, none of which makes it endless."""
    return st.one_of(
        st.builds(lambda s, b: s.clip(**ordered(b)), inner, st.tuples(numbers, numbers)),
        st.builds(lambda s, low: s.clip(low=low), inner, numbers),
        st.builds(lambda s, n: s.first(n), inner, steps),
        st.builds(lambda s, n: s.after(n), inner, steps),
        st.builds(lambda s, n: s.shift(n), inner, st.integers(-9, 9)),
        st.builds(lrs.Stretch, inner, steps),
        st.builds(lambda s, n: repeatable(s).repeat(n), inner, st.integers(0, 4)),
        inner.map(lrs.Reverse),
    )


def combined(parts):
    return st.one_of(
        st.builds(lambda a, b: a.then(b), parts, parts),
        st.builds(lambda a, b: a * b, parts, parts),
        st.builds(lambda a, b: a + b, parts, parts),
        st.builds(lambda c, a: c * a, numbers, parts),
        st.builds(lambda a, c: a + c, parts, numbers),
        st.builds(lambda a, c, d: a * (lrs.Constant(c) + lrs.Constant(d)), parts, numbers, numbers),
        st.builds(lambda a, c, d: a + lrs.Constant(c) * d, parts, numbers, numbers),
    )


finite = st.recursive(ended_shapes | recipes, lambda parts: combined(parts) | operations(parts), max_leaves=4)
endless = st.one_of(
    endless_shapes(st.none()),
    cycles,
    finite.map(lambda s: repeatable(s).repeat()),
    st.builds(lambda s, n: s.after(n), cycles, steps),
    st.builds(lambda s, low: s.clip(low=low), cycles, numbers),
    st.builds(lambda a, b: a * b, finite, cycles),
)
any_schedule = st.one_of(finite, finite, endless, st.builds(lambda a, b: a.then(b), finite, endless))
"""With and without an end; its values are known at every step."""


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float64).view(np.int64), np.asarray(b, np.float64).view(np.int64))


def close(a, b, rtol=1e-12):
    """Equal but for rounding, of the size of the largest value."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=rtol * max(1.0, np.abs(b).max(initial=0)))
