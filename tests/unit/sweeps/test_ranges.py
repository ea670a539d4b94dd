"""Values of an axis as text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrscope.sweeps.ranges import expand


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_powers_have_ratio_two_and_both_ends(a, b):
    values = [float(v) for v in expand("lr", f"2^{a}:2^{b}")]
    way = 1 if b >= a else -1
    assert values == [2.0**k for k in range(a, b + way, way)]


@given(st.floats(1e-12, 1e6), st.floats(1e-12, 1e6), st.integers(2, 200))
def test_log_spaced_points_are_numpys(low, high, count):
    values = [float(v) for v in expand("lr", f"{low!r}:{high!r}:{count}")]
    np.testing.assert_allclose(values, np.geomspace(low, high, count), rtol=1e-11)


@given(st.integers(-1000, 1000), st.integers(0, 300), st.integers(1, 50))
def test_equal_steps_are_pythons_range(first, length, step):
    assert [int(v) for v in expand("width", f"{first}..{first + length}..{step}")] == list(
        range(first, first + length + 1, step)
    )


@given(
    st.lists(st.sampled_from(["0.1", "5%", "1e-3", "33%", "mlp", "adam(betas=(0.9, 0.99))", "2 epochs"]), min_size=1)
)
def test_a_list_is_its_values(values):
    assert expand("warmup", ",".join(values)) == values


def test_ranges_inside_lists_and_whole_numbers_stay_whole():
    assert expand("lr", "0,2^-2:2^1,5%") == ["0", "0.25", "0.5", "1", "2", "5%"]
    assert expand("width", "64:1024:5") == ["64", "128", "256", "512", "1024"]
    assert expand("path", "C:/data") == ["C:/data"]  # nothing but numbers makes a range


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1e-4:1", "how many points"),
        ("2^-9:3^2", "how many points"),
        ("2^0:2^0.5", "no whole number apart"),
        ("0:1:5", "above 0"),
        ("1e-4:1:1", "2 to"),
        ("1e-4:1:1000000", "2 to"),
        ("2^-1000:2^1000000", "no finite"),
        ("5..1", "no values"),
        ("1..5..0", "no values"),
        ("0..1e9", "points"),
        ("0.1,,0.2", "missing"),
        ("", "missing"),
        ("10^999", "no finite number"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(text, said):
    with pytest.raises(ValueError, match=f"^lr: .*{said}") as error:
        expand("lr", text)
    assert "\n" not in str(error.value)
