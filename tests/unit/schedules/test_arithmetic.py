"""Minus and division by a number, and what a schedule refuses in the arithmetic around it."""

from dataclasses import dataclass

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError

S = lrs.Cosine(1.0, 0.1, 7).then(lrs.Linear(0.1, 0.4, 5))


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (S - 0.1, lambda v: v - 0.1),
        (1 - S, lambda v: 1 - v),
        (S / 3, lambda v: v / 3),
        (S - S / 2, lambda v: v / 2),
        (-S, lambda v: -v),
        (S - np.float64(0.2), lambda v: v - 0.2),
    ],
)
def test_minus_and_division_are_of_the_values(built, expected):
    assert built.num_steps == S.num_steps
    assert np.allclose(built.values(20), expected(S.values(20)), rtol=0, atol=1e-15)
    assert lrs.from_spec(built.to_spec()) == built == lrs.parse(built.to_text())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: S / 0, "/: the divisor must not be 0"),
        (lambda: S / S, "/: the divisor must be a number"),
        (lambda: S - "0.1", "-: what is subtracted must be a number, got '0.1'"),
        (lambda: "0.1" - S, "needs a Schedule or a finite number, got '0.1'"),
        (lambda: S.shift(2.5), "shift: steps must be a whole number, negative for earlier, got 2.5"),
        (lambda: S.shift(True), "shift: steps must be a whole number, negative for earlier, got True"),
        (lambda: S.repeat(2.5), "Repeat: times must be a whole number of times, 0 or more, got 2.5"),
        (lambda: lrs.Cosine(1, 0, 10).cool_down(20, 5), "already 0 at step 20, so there is nothing to cool down"),
        (lambda: lrs.Constant(0.5).cool_down(3, 5, end=0.5), "already 0.5 at step 3"),
    ],
)
def test_what_has_no_meaning_is_one_line(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_shift_takes_the_whole_numbers_of_numpy():
    assert S.shift(np.int64(-3)) == S.shift(-3)
    assert S.shift(np.int64(3)) == S.shift(3)


@dataclass(frozen=True, repr=False)
class OneNumber(lrs.Schedule):
    answer: object

    @property
    def num_steps(self):
        return None

    def _at(self, t):
        return self.answer


@pytest.mark.parametrize("answer", [0.5, np.float64(0.5), None, np.zeros(3), np.zeros((2, 2))])
def test_a_shape_that_forgets_its_steps_is_told_so(answer):
    for ask in (lambda s: s(2), lambda s: s.values(2)):
        with pytest.raises(
            ScheduleError, match=r"OneNumber._at: must return one value for each of its steps"
        ) as told:
            ask(OneNumber(answer))
        assert "\n" not in str(told.value)
