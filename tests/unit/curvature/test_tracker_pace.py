"""When to measure: the rule on curves that are known, without any network."""

import json
import math
import random
from itertools import pairwise

import pytest

from lrscope.curvature.pace import FAR, NEAR, Pace


def readings(curve, pace=None, *, scale=lambda _: math.nan, steps=600, price=1.0):
    """The steps at which the curve is read; each reading costs ``price``."""
    pace, seen = pace or Pace(), []
    for t in range(steps):
        if pace.due(scale(t), price=price):
            pace.read([curve(t)], price)
            seen.append(t)
    return seen


def gaps(seen):
    return [b - a for a, b in pairwise(seen)]


def test_a_constant_is_read_ever_more_rarely_and_never_more_rarely_than_longest():
    seen = readings(lambda _: 3.0, Pace(longest=99))
    assert len(seen) <= 14
    assert gaps(seen)[-1] == 99
    assert max(gaps(seen)) == 99


@pytest.mark.parametrize("longest", [1, 2, 7, 50])
def test_longest_is_kept(longest):
    assert max(gaps(readings(lambda _: 3.0, Pace(longest=longest)))) <= longest


@pytest.mark.parametrize("rate", [1e-3, 5e-3, 0.02, -0.01])
def test_a_steady_ramp_moves_by_no_more_than_what_is_allowed_between_readings(rate):
    seen = readings(lambda t: math.exp(rate * t))
    assert max(abs(rate) * gap for gap in gaps(seen)) <= max(FAR, abs(rate)) * 1.1
    assert len(seen) <= 15 + 600 * abs(rate) / (FAR - 2 * abs(rate))  # and no more often than that asks for


def test_a_curve_whose_speed_does_not_double_between_readings_moves_by_at_most_twice_that():
    for seed in range(20):
        draw = random.Random(seed)
        speed, log, curve = 1e-3, 0.0, []
        for _ in range(600):  # a speed that wanders by at most 2 % a step, and gaps are at most 19 steps
            speed *= math.exp(draw.uniform(-0.02, 0.02))
            log += speed
            curve.append(math.exp(log))
        seen = readings(curve.__getitem__, Pace(longest=19))
        assert max(math.log(curve[b] / curve[a]) for a, b in pairwise(seen)) <= 2 * FAR


def test_headroom_that_rises_to_one_is_read_more_and_more_often_and_just_beyond():
    rate = 2e-3
    seen = readings(lambda t: 0.1 * math.exp(rate * t), scale=lambda _: 1.0, steps=1400)
    cross = math.log(10) / rate
    before, after = [t for t in seen if t < cross], [t for t in seen if t >= cross]
    assert (after[0] - cross) * rate <= 2 * NEAR
    assert gaps(before)[-1] < gaps(before)[len(before) // 2]
    assert max(gaps(after)) * rate <= 1.1 * NEAR


def test_a_jump_out_of_calm_is_seen_within_longest_and_then_watched():
    for jump in range(400, 500, 7):
        seen = readings(lambda t, jump=jump: 1.0 if t < jump else 1.5, Pace(longest=60))
        first = next(t for t in seen if t >= jump)
        assert first - jump < 60
        period = next(b - a for a, b in pairwise(seen) if a == first)
        assert period <= max(1, 60 * FAR / (0.5 / 1.5))


def test_an_oscillation_of_period_two_is_met_in_both_phases():
    def curve(t):
        return 1.0 + (0.15 * (-1) ** t if t >= 200 else 0)

    seen = [t for t in readings(curve, Pace(longest=80)) if t >= 200]
    assert len({t % 2 for t in seen[:2]}) == 2
    assert set(gaps(seen[10:])) == {1}  # 30 % a step is far more than what may pass unseen


def test_a_warmup_is_read_on_its_way_up_and_not_at_every_step():
    # headroom 0 -> 0.8 in 400 steps, by the learning rate alone
    seen = readings(lambda _: 1.0, Pace(longest=10_000), scale=lambda t: 0.8 * t / 400, steps=400)
    levels = [0.8 * t / 400 for t in seen]
    for low, high in pairwise(levels[3:]):
        assert abs(math.log(high)) >= abs(math.log(low)) / 2 - 0.02
    assert levels[-1] > 0.5
    assert len(seen) <= 20


def test_a_learning_rate_that_jumps_is_followed_at_once():
    for low, high in ((0.1, 0.9), (0.9, 0.1), (0.0, 0.5), (0.99, 1.05)):
        seen = readings(lambda _: 1.0, Pace(longest=1000), scale=lambda t, a=low, b=high: a if t < 300 else b)
        assert 300 in seen
    harmless = readings(lambda _: 1.0, Pace(longest=1000), scale=lambda t: 1e-3 if t < 300 else 2e-3)
    assert 300 not in harmless


@pytest.mark.parametrize("budget", [0.03, 0.2, 1.0, 2.5])
def test_a_budget_is_never_overdrawn(budget):
    draw = random.Random(0)
    pace, spent = Pace(budget=budget), 0.0
    for t in range(500):
        if pace.due(1.0, price=2.0):
            cost = min(2.0 * draw.randint(1, 5), 2 * (pace.account // 2)) if t else 30.0
            spent += cost if t else 0.0
            pace.read([1 + 0.3 * draw.random()], cost, cut=draw.random() < 0.3)
        assert spent <= budget * t + 1e-9
    assert spent >= 0.3 * min(budget, 2.0) * 500  # and is not left lying either


def test_a_reading_that_was_cut_short_makes_the_next_one_wait_for_twice_as_much():
    pace = Pace(budget=1.0)
    assert pace.due(price=2.0)
    pace.read([1.0], 4.0)
    steps = {}
    for cut in (True, False):
        waited = 0
        while True:
            waited += 1
            if pace.due(1.0, price=2.0):
                break
        steps[cut] = waited
        pace.read([1.0 + 0.5 * waited], 2.0, cut=cut)
    assert steps[True] == 2  # at least the cheapest one
    assert steps[False] == 5  # twice 2, and periods are odd


def test_several_values_are_watched_together():
    pace = Pace()
    pace.due()
    pace.read([2.0, 1.0])
    pace.due()
    pace.read([2.0, 1.2])  # the second one moves by a tenth of the first
    assert pace.due()
    still = Pace()
    still.due()
    still.read([2.0, 1.0])
    still.due()
    still.read([2.0, 1.0])
    still.due()
    still.read([2.0, 1.0])
    assert not still.due()


def test_zero_negative_and_diverged_values_are_no_obstacle():
    assert len(readings(lambda _: 0.0, scale=lambda _: 1.0)) <= 16
    assert len(readings(lambda t: -1.0 - t, scale=lambda _: 1.0)) > 16
    diverged = readings(lambda t: 1.0 if t < 100 else math.nan, Pace(longest=50), steps=400)
    assert gaps(diverged)[-1] == 49
    assert gaps(readings(lambda _: math.nan, Pace(longest=50), steps=400))[-1] == 49


def test_resuming_at_any_step_changes_nothing():
    def run(stop):
        draw = [math.exp(0.3 * math.sin(t / 9)) for t in range(120)]
        pace, seen = Pace(longest=30, budget=0.7), []
        for t, value in enumerate(draw):
            if t == stop:
                state = json.loads(json.dumps(pace.state_dict()))
                pace = Pace(longest=30, budget=0.7)
                pace.load_state_dict(state)
            if pace.due(t / 120, price=1.0):
                pace.read([value], 1.5, cut=t % 2 == 0)
                seen.append(t)
        return seen, pace.state_dict()

    whole = run(None)
    assert all(run(stop) == whole for stop in range(1, 120))
