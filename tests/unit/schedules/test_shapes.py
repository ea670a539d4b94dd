import math

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError

SHAPES = [
    lrs.Constant(0.3, 10),
    lrs.Linear(0.1, 0.7, 10),
    lrs.Cosine(0.3, 0.1, 10),
    lrs.Polynomial(0.3, 0.1, 10, 2),
    lrs.Sqrt(0.3, 0.1, 10),
    lrs.Exponential(0.3, 0.1, 10),
    lrs.InverseSqrt(0.3, 4, 10),
    lrs.Piecewise((0.3, 0.2, 0.1), (3, 7), 10),
]


@pytest.mark.parametrize("s", SHAPES, ids=lambda s: s.kind)
def test_each_shape_starts_at_its_start_and_holds_its_end_exactly(s):
    assert s(0) == (0.1 if isinstance(s, lrs.Linear) else 0.3)
    assert s.num_steps == 10
    ends = {"constant": 0.3, "linear": 0.7, "inverse_sqrt": 0.3 / math.sqrt(3.5)}
    assert s(10) == s(11) == s(10**15) == ends.get(s.kind, 0.1)
    assert s.values().dtype == np.float64


@pytest.mark.parametrize("shape", [lrs.Linear, lrs.Cosine, lrs.Sqrt, lrs.Exponential])
def test_no_steps_is_the_end_at_once(shape):
    assert shape(0.5, 0.25, 0)(0) == 0.25
    assert shape(0.5, 0.25, 0).values().shape == (0,)
    assert shape(0.5, 0.25, 0).then(lrs.Linear(1.0, 0.0, 4))(0) == 1.0


def test_one_step_is_the_start():
    assert lrs.Cosine(1.0, 0.0, 1).values().tolist() == [1.0]


def test_never_ending_schedules_are_sampled_by_count():
    assert lrs.Constant(2.0).num_steps is None
    assert lrs.InverseSqrt(1.0, 1).values(4)[3] == 0.5
    with pytest.raises(ScheduleError, match="never ends"):
        lrs.Constant(2.0).values()


def test_a_cosine_does_not_climb_again():
    assert lrs.Cosine(1.0, 0.0, 3).values(8)[3:].tolist() == [0.0] * 5


def test_printing_is_short_and_evaluates_back():
    s = 3e-4 * lrs.warmup(2).then(lrs.Cosine(1.0, 0.0, 3))
    assert repr(s) == "Constant(0.0003) * Linear(0.0, 1.0, 2).then(Cosine(1.0, 0.0, 3))"
    assert repr((0.5 * lrs.Linear(1, 0, 2)).then(1.0)) == "(Constant(0.5) * Linear(1.0, 0.0, 2)).then(Constant(1.0))"


def test_numbers_are_made_plain():
    assert lrs.Linear(np.float32(0.5), 1, np.int64(3)) == lrs.Linear(0.5, 1.0, 3)
    assert type(lrs.Linear(np.float32(0.5), 1, np.int64(3)).steps) is int
    assert repr(lrs.Constant(-0.0)) == "Constant(0.0)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.Linear(float("nan"), 1.0, 3), "Linear: start must be finite.*nan"),
        (lambda: lrs.Linear(0.0, float("inf"), 3), "Linear: end must be finite.*inf"),
        (lambda: lrs.Linear(0.0, 10**400, 3), "Linear: end must be finite"),
        (lambda: lrs.Linear(True, 1.0, 3), "Linear: start must be a number, got True"),
        (lambda: lrs.Linear("0", 1.0, 3), "Linear: start must be a number, got '0'"),
        (lambda: lrs.Linear(0.0, 1.0, -1), "Linear: steps must be a whole number of steps, 0 or more.*-1"),
        (lambda: lrs.Linear(0.0, 1.0, 3.0), "Linear: steps must be a whole number.*3.0"),
        (lambda: lrs.Linear(0.0, 1.0, True), "Linear: steps must be a whole number.*True"),
        (lambda: lrs.Linear(0.0, 1.0, 2**60), r"2\*\*53"),
        (lambda: lrs.Polynomial(1.0, 0.0, 3, 0), "Polynomial: power must be greater than 0"),
        (lambda: lrs.Exponential(1.0, 0.0, 3), "Exponential: end must be greater than 0"),
        (lambda: lrs.Exponential(-1.0, 1.0, 3), "Exponential: start must be greater than 0"),
        (lambda: lrs.InverseSqrt(1.0, 0), "InverseSqrt: timescale .* 1 or more"),
        (lambda: lrs.Piecewise((1.0,), (2,)), "one more than boundaries, got 1 levels and 1"),
        (lambda: lrs.Piecewise((1.0, 2.0, 3.0), (2, 2)), "boundaries must increase"),
        (lambda: lrs.Piecewise((1.0, 2.0), (5,), 4), "Piecewise: steps .* 5 or more"),
        (lambda: lrs.Piecewise(1.0, (5,)), "Piecewise: levels must be a list, tuple or 1-d array"),
        (lambda: lrs.Constant(1.0).then(0.5), r"Join: part 0 \(Constant\(1.0\)\) never ends, so part 1 is unreach"),
        (lambda: lrs.Join((lrs.Constant(1.0),)), "Join: needs two or more parts, got 1"),
        (lambda: lrs.Product((lrs.Constant(1.0), 3)), "Product: part 1 must be a Schedule, got 3"),
        (lambda: lrs.Linear(0, 1, 2**53).then(lrs.Linear(0, 1, 2**53)), "Join: .*2\\*\\*53"),
        (lambda: lrs.Linear(0, 1, 3).then("x"), "then: needs a Schedule or a finite number, got 'x'"),
        (lambda: lrs.Linear(0, 1, 3) * None, r"\*: needs a Schedule or a finite number, got None"),
        (lambda: lrs.Linear(0, 1, 3)(-1), "Linear: step must be a whole number of steps, 0 or more"),
        (lambda: lrs.Linear(0, 1, 3)(1.5), "Linear: step must be a whole number"),
        (lambda: lrs.Linear(0, 1, 3)(True), "Linear: step must be a whole number"),
        (lambda: lrs.warmup(0.06), "Linear: steps must be a whole number"),
        (lambda: lrs.nonzero_warmup(0.06), "Linear: steps must be a whole number"),
        (lambda: lrs.Horizon(0), "Horizon: steps .* 1 or more"),
        (lambda: lrs.Horizon(10, tokens_per_step=0), "Horizon: tokens_per_step must be greater than 0"),
        (lambda: lrs.Horizon(10).in_steps(3, "epoch"), "steps_per_epoch"),
        (lambda: lrs.Horizon(10).in_steps(3, "epoc"), "did you mean 'epoch'"),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_the_conventions_of_the_first_step():
    assert lrs.warmup(4).values(5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert lrs.nonzero_warmup(4).values(5).tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert np.allclose(lrs.Linear(1 / 5, 1.0, 4).values(5), [0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.allclose(lrs.warmup(4, start=1 / 3).values(5), [1 / 3, 0.5, 2 / 3, 5 / 6, 1.0])


@pytest.mark.parametrize("w", [1, 2, 7, 500])
def test_a_nonzero_warmup_runs_update_k_at_k_plus_1_over_w(w):
    values = lrs.nonzero_warmup(w).then(lrs.Constant(1.0)).values(w + 2)
    assert np.allclose(values[:w], np.arange(1, w + 1) / w, rtol=1e-15)
    assert values[w - 1 :].tolist() == [1.0, 1.0, 1.0]
    assert lrs.nonzero_warmup(0)(0) == 1.0


def test_a_product_is_as_long_as_its_longest_factor():
    s = lrs.warmup(5) * lrs.Cosine(1.0, 0.0, 10)
    assert s.num_steps == 10
    assert s.values()[7] == lrs.Cosine(1.0, 0.0, 10)(7)
    assert (lrs.InverseSqrt(1.0, 3) * lrs.Linear(0, 1, 5)).num_steps is None
    assert (0.5 * lrs.Constant(1.0) * lrs.Linear(0, 1, 5)).num_steps == 5
    assert (lrs.Linear(0, 1, 5) * (0.5 * lrs.Constant(1.0))).num_steps == 5
    assert (2.0 * lrs.Constant(1.0)).num_steps is None


def test_a_shape_of_the_users_own_joins_the_algebra():
    from dataclasses import dataclass

    @dataclass(frozen=True, repr=False)
    class Sawtooth(lrs.Schedule, kind="test_sawtooth"):
        period: int

        @property
        def num_steps(self):
            return None

        def _at(self, t):
            return 1.0 - (t % self.period) / self.period

    s = lrs.Linear(0, 1, 3).then(Sawtooth(4))
    assert s(4) == 0.75
    assert lrs.from_spec(s.to_spec()) == s
    assert repr(s) == "Linear(0.0, 1.0, 3).then(Sawtooth(4))"
    with pytest.raises(ScheduleError, match="Sawtooth has no text"):
        s.to_text()
    with pytest.raises(ScheduleError, match="already belongs to"):
        type("Other", (lrs.Schedule,), {}, kind="cosine")

    @dataclass(frozen=True, repr=False)
    class Nameless(Sawtooth):
        pass

    with pytest.raises(ScheduleError, match="no kind"):
        Nameless(3).to_spec()
