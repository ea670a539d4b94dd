"""Restarts, waves and step decays against their definitions, one step at a time in exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


def cycle_at(t, period, mult):
    """Index, first step and length of the cycle that holds step ``t``, walked through cycle by cycle."""
    index, start, length = 0, Fraction(0), Fraction(period)
    while start + length <= t:
        index, start, length = index + 1, start + length, length * Fraction(mult)
    return index, start, length


def restarts(t, high, low, period, mult, decay):
    index, start, length = cycle_at(t, period, mult)
    peak = high * decay**index
    return low + (peak - low) * (1 + math.cos(math.pi * float((t - start) / length))) / 2


@pytest.mark.parametrize("mult", ["1", "2", "1.5", "1.1", "3"])
@pytest.mark.parametrize("period", ["1", "10", "7.5", "66.7"])
def test_restarts_are_the_definition_at_every_step(period, mult):
    s = lrs.WarmRestarts(1.0, 0.1, float(period), float(mult), 0.9)
    expected = [restarts(t, 1.0, 0.1, period, mult, 0.9) for t in range(400)]
    assert np.allclose(s.values(400), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("period", "mult"), [("10", "1"), ("10", "2"), ("8", "1.5"), ("1000", "1.1"), ("7", "3"), ("66.7", "1")]
)
def test_a_restart_comes_on_its_step_up_to_a_billion(period, mult):
    """Of all cycles (of some, where there are very many), the last steps of one and the first ones of the next."""
    s = lrs.WarmRestarts(1.0, 0.0, float(period), float(mult), 1 - 1e-9)
    index, start, length = 0, Fraction(0), Fraction(period)
    edges = []
    while start < 10**9:
        edges.append((index, start, length))
        if Fraction(mult) == 1:
            jump = max(index // 3, 1)  # 0, 1, 2, ... and then ever farther
            index, start = index + jump, start + jump * length
        else:
            index, start, length = index + 1, start + length, length * Fraction(mult)
    assert len(edges) > 15
    for index, start, length in edges:
        for t in range(math.ceil(start), math.ceil(start) + 3):
            if t - start < length:
                expected = (1 - 1e-9) ** index * (1 + math.cos(math.pi * float((t - start) / length))) / 2
                assert s(t) == pytest.approx(expected, rel=1e-9, abs=1e-9), (index, t)
        before = math.ceil(start) - 1
        if before >= 0:
            _, its_start, its_length = max((e for e in edges if e[1] <= before), key=lambda e: e[1])
            if Fraction(mult) != 1:
                last = (1 + math.cos(math.pi * float((before - its_start) / its_length))) / 2
                assert s(before) == pytest.approx((1 - 1e-9) ** (index - 1) * last, rel=1e-6, abs=1e-9), (
                    index,
                    before,
                )


@pytest.mark.parametrize("mult", [1.0 + 1e-15, 1.0 + 1e-9, 1.0 + 1e-6])
def test_cycles_that_hardly_grow_are_almost_periodic(mult):
    s = lrs.WarmRestarts(1.0, 0.0, 10, mult)
    inside = [t for t in range(500) if t % 10]  # at the edge itself, rounding may decide
    expected = [restarts(t, 1.0, 0.0, 10, mult, 1.0) for t in inside]
    assert np.allclose([s(t) for t in inside], expected, rtol=1e-9)


def test_restarts_end_where_told_and_may_end_at_the_floor():
    s = lrs.WarmRestarts(1.0, 0.1, 10, 2, steps=30)
    assert s.num_steps == 30
    assert s(30) == s(10**6) == 1.0  # a new cycle begins at 30
    assert s.then(0.1)(30) == 0.1
    assert 0.1 < s(29) < 0.11


def test_peaks_stop_at_1e30():
    s = lrs.WarmRestarts(1.0, 0.0, 1, peak_decay=1e10)
    assert [s(t) for t in (0, 1, 3, 4, 10**6)] == [1.0, 1e10, 1e30, 1e30, 1e30]
    assert lrs.WarmRestarts(-1.0, 0.0, 1, peak_decay=1e300 ** (1 / 11))(10**15) == -1e30
    assert lrs.WarmRestarts(0.0, 0.0, 1, peak_decay=1e30)(2**53) == 0.0
    assert lrs.StepDecay(1e20).values(4).tolist() == [1.0, 1e20, 1e30, 1e30]
    assert lrs.StepDecay(1e-200).values(4).tolist() == [1.0, 1e-200, 0.0, 0.0]


@pytest.mark.parametrize("period", [1, 2, 7, 7.5, 100])
def test_a_wave_is_the_definition(period):
    s = lrs.CosineWave(0.9, 0.2, period)
    expected = [0.2 + 0.7 * (1 + math.cos(2 * math.pi * (t % period) / period)) / 2 for t in range(300)]
    assert np.allclose(s.values(300), expected, rtol=1e-13)


def test_a_wave_does_not_drift():
    s = lrs.CosineWave(1.0, 0.0, 1000)
    for k in (1, 10**6, 10**12):
        assert s(1000 * k) == 1.0
        assert s(1000 * k + 500) == 0.0
        assert s(1000 * k + 123) == s(123)


def test_a_wave_starts_as_the_cosine_and_climbs_again():
    wave, half = lrs.CosineWave(1.0, 0.0, 200), lrs.Cosine(1.0, 0.0, 100)
    assert np.allclose(wave.values(101), half.values(101), atol=1e-15)
    assert wave(150) == pytest.approx(0.5, abs=1e-15)
    assert lrs.CosineWave(1.0, 0.0, 200, steps=100)(150) == 0.0


@pytest.mark.parametrize(("factor", "every"), [(0.5, 1), (0.1, 3), (1.3, 7), (0.999, 1)])
def test_a_step_decay_is_the_definition(factor, every):
    s = lrs.StepDecay(factor, every)
    assert np.allclose(s.values(100), [factor ** (t // every) for t in range(100)], rtol=1e-13)
    assert lrs.StepDecay(factor, every, 20)(10**9) == s(20)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.WarmRestarts(1, 0, 0), "WarmRestarts: period must be greater than 1e-09, got 0"),
        (lambda: lrs.WarmRestarts(1, 0, -3), "WarmRestarts: period must be greater than 1e-09, got -3"),
        (lambda: lrs.WarmRestarts(1, 0, 5, 0.5), "WarmRestarts: mult must be 1 or more, got 0.5"),
        (lambda: lrs.WarmRestarts(1, 0, 5, peak_decay=0), "WarmRestarts: peak_decay must be greater than 0, got 0"),
        (lambda: lrs.WarmRestarts(1, 0, 5, steps=2.5), "WarmRestarts: steps must be a whole number"),
        (lambda: lrs.WarmRestarts(float("nan"), 0, 5), "WarmRestarts: high must be finite"),
        (lambda: lrs.CosineWave(1, 0, 1e-300), "CosineWave: period must be greater than 1e-09"),
        (lambda: lrs.CosineWave(1, True, 5), "CosineWave: low must be a number, got True"),
        (lambda: lrs.StepDecay(0), "StepDecay: factor must be greater than 0, got 0"),
        (lambda: lrs.StepDecay(0.5, 0), "StepDecay: every must be a whole number of steps, 1 or more"),
        (lambda: lrs.StepDecay(0.5, 2.5), "StepDecay: every must be a whole number"),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
