import math

import numpy as np
import pytest
import torch

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


def between(entries, x):
    """The straight line between two entries, in plain Python."""
    x = min(x, len(entries) - 1)
    i = min(int(x), len(entries) - 2)
    return entries[i] + (entries[i + 1] - entries[i]) * (x - i)


def test_a_table_is_its_entries():
    entries = (0.1, -3.0, 1e30, 0.0, 0.7)
    s = lrs.Table(entries)
    assert s.num_steps == 5
    assert s.values(7).tolist() == [*entries, 0.7, 0.7]
    assert lrs.Table((2.0,)).values(3).tolist() == [2.0] * 3


@pytest.mark.parametrize("length", [3, 8, 10, 23])
def test_a_stretched_table_is_a_line_between_its_entries(length):
    entries = (1.0, 0.2, 0.4, 0.3, 0.1, 0.0)
    shape = lrs.Table(entries).first(5).stretch(length)  # five intervals
    assert np.allclose(shape.values(), [between(entries, t * 5 / length) for t in range(length)], atol=1e-15)
    assert shape(length) == 0.0


def test_a_table_is_read_at_once_also_a_long_one():
    rng = np.random.default_rng(0)
    entries = rng.normal(size=200_000)
    s = lrs.Table(tuple(entries.tolist()))
    assert np.array_equal(s.values(), entries)
    assert s(123_456) == entries[123_456]
    assert lrs.Table(tuple(s.values())) == s


def test_numbers_of_numpy_and_negative_zero_become_plain():
    s = lrs.Table((np.float32(0.5), np.int64(1), -0.0))
    assert repr(s) == "Table((0.5, 1.0, 0.0))"
    assert {type(v) for v in s.entries} == {float}


@pytest.mark.parametrize("of", [np.array, np.float32, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float32)])
def test_a_table_takes_an_array(of):
    s = lrs.Table(of([1.0, 0.5, 0.25]))
    assert s == lrs.Table((1.0, 0.5, 0.25))
    assert {type(v) for v in s.entries} == {float}


@pytest.mark.parametrize("timescale", [0.3, 1, 7, 1000, 12345.678])
def test_an_exponential_warmup_is_its_definition(timescale):
    s = lrs.ExponentialWarmup(timescale)
    for t in (0, 1, 2, 10, 999):
        assert s(t) == pytest.approx(1 - math.exp(-(t + 1) / timescale), rel=1e-12)
    assert s.num_steps == math.ceil(38 * timescale)
    assert s(s.num_steps) == 1.0
    assert (np.diff(s.values(min(s.num_steps, 5000))) >= 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.Table(()), "Table: entries must be one value or more, got none"),
        (lambda: lrs.Table(3), "Table: entries must be a list, tuple or 1-d array, got 3"),
        (lambda: lrs.Table(np.ones((3, 1))), "Table: entries must be a list, tuple or 1-d array"),
        (lambda: lrs.Table((1.0, True)), r"Table: entries\[1\] must be a number, got True"),
        (lambda: lrs.Table((1.0, 2.0, math.nan)), r"Table: entries\[2\] must be finite .* got nan"),
        (lambda: lrs.Table((1e31,)), r"Table: entries\[0\] must be finite and at most 1e30"),
        (lambda: lrs.ExponentialWarmup(0), "ExponentialWarmup: timescale must be greater than 1e-09, got 0"),
        (lambda: lrs.ExponentialWarmup(1e15), "ExponentialWarmup: timescale is longer than any run"),
        (lambda: lrs.ExponentialWarmup("1"), "ExponentialWarmup: timescale must be a number"),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
