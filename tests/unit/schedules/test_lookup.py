import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


class Counting(lrs.Schedule):
    """Counts how often the array formula is asked, and for how many steps."""

    def __init__(self):
        self.asked = []

    num_steps = None

    def _at(self, t):
        self.asked.append(len(t))
        return t / 7


def test_a_run_forward_asks_for_blocks():
    s = Counting()
    read = lrs.Lookup(s)
    assert [read(t) for t in range(10_000)] == [t / 7 for t in range(10_000)]
    blocks = [n for n in s.asked if n > 1]
    assert blocks[0] == 16  # a scheduler that is only built costs little
    assert set(blocks[1:]) == {1024}
    assert len(s.asked) < 25


def test_jumps_back_and_forth_are_right():
    s = Counting()
    read = lrs.Lookup(s)
    for t in (0, 5, 15, 16, 0, 2000, 1999, 3024, 2**53, 3, 2**53 - 1, 0):
        assert read(t) == t / 7


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1024, 1040, 1041, 3000])
def test_a_bounded_schedule_is_read_up_to_its_end_and_no_further(n):
    s = lrs.Linear(1.0, 0.0, n).with_end("error")
    read = lrs.Lookup(s)
    assert [read(t) for t in range(n + 1)] == [s(t) for t in range(n + 1)]
    for _ in range(2):
        with pytest.raises(ScheduleError, match="past the end"):
            read(n + 1)
        assert read(n) == s(n)


@pytest.mark.parametrize("step", [-1, -5])
def test_a_step_before_the_first_is_refused(step):
    read = lrs.Lookup(lrs.Linear(1.0, 0.0, 50))
    read(10)
    with pytest.raises(ScheduleError, match="step must be a whole number of steps, 0 or more"):
        read(step)
