"""Catapults while they happen, told from spikes and climbs; how often that is right on labelled runs."""

import json

import numpy as np
import pytest

import labelled_runs as labelled
from lrscope.records import Run
from lrscope.solvable import UV
from lrscope.stability import Catapult, CatapultDetector, explain, find_catapults
from lrscope.stability.level import SPREAD, WIDTHS, central_mean


def live(run, detector=None):
    detector = detector or CatapultDetector()
    for row in run.rows:
        found = detector.update(
            row["step"], row["loss"], sharpness=row.get("sharpness"), headroom=row.get("headroom")
        )
        if found is not None:
            yield found


def bump(n=400, at=200, top=8.0, noise=0.0, seed=0):
    t = np.arange(n)
    rng = np.random.default_rng(seed)
    return (1 + (top - 1) * np.exp(-0.5 * ((t - at) / 8) ** 2)) * np.exp(noise * rng.standard_normal(n))


def test_a_fall_of_the_sharpness_makes_it_a_catapult():
    t = np.arange(400)
    for after, kind in ((30.0, "catapult"), (85.0, "spike"), (120.0, "spike")):
        sharpness = np.where(t < 200, 85.0, after)
        run = labelled.record(bump(), sharpness, np.full(400, 2 * 1.4 / 85))
        for found in (find_catapults(run), list(live(run))):
            (one,) = found
            assert one.kind == kind
            assert (one.sharpness_before, one.sharpness_after) == (85, after)
            assert one.headroom == pytest.approx(1.4 * max(1, after / 85))
            assert one.ratio == pytest.approx(8, rel=0.01)
    run = labelled.record(bump(), np.where(t < 200, 85.0, 30.0), np.full(400, 2 * 1.4 / 85))
    said = explain(run)[0]
    assert said.startswith("the loss jumped by x8 at step 171")
    assert "came back by step 2" in said
    assert "sharpness fell from 85 to 30: a catapult" in said
    assert said.endswith("the learning rate was 1.4 times what curvature allows")


def test_a_fall_within_the_noise_of_the_readings_is_none():
    rng = np.random.default_rng(0)
    sharpness = 85 * np.exp(0.05 * rng.standard_normal(400))
    (found,) = find_catapults(labelled.record(bump(), sharpness, np.full(400, 0.02)))
    assert found.noise == pytest.approx(0.05, rel=0.4)
    assert found.kind == "spike"
    assert "no more than the readings vary" in str(Catapult(1, 2, 3, 2.0, 85.0, 70.0, noise=0.1))
    assert "which is no fall" in str(Catapult(1, 2, 3, 2.0, 85.0, 86.0, noise=0.1))


def test_without_readings_a_return_is_enough_and_a_climb_is_not():
    (found,) = find_catapults(labelled.record(bump()))
    assert found.kind == "catapult"
    assert found.headroom is None
    assert "sharpness" not in str(found)
    t = np.arange(300)
    (climb,) = find_catapults(labelled.record(np.exp(np.clip(t - 250, 0, None) / 10)))
    assert climb.kind == "climb"
    assert "had not come back" in str(climb)


def test_live_and_afterwards_agree_where_the_noise_is_low():
    for seed in range(4):
        run = labelled.record(bump(noise=0.02, seed=seed))
        (a,), (b,) = find_catapults(run), list(live(run))
        assert abs(a.onset - b.onset) <= 10
        assert abs(a.end - b.end) <= 10
        assert a.ratio == pytest.approx(b.ratio, rel=0.15)


def test_it_knows_of_an_excursion_while_it_lasts():
    detector, loss = CatapultDetector(), bump(top=20.0)
    states = []
    for step, value in enumerate(loss):
        detector.update(step, value)
        states.append(detector.open)
    assert not any(states[:170])
    assert all(states[190:210])
    assert not any(states[240:])


@pytest.mark.parametrize("stop", [5, 150, 195, 203, 230])
def test_a_detector_goes_on_from_its_state(stop):
    t = np.arange(400)
    run = labelled.record(bump(noise=0.05), np.where(t < 200, 85.0, 30.0), np.full(400, 0.03), every=7)
    whole = list(live(run))
    assert whole
    first, second = CatapultDetector(), CatapultDetector()
    begun = list(live(Run("a", {}, run.rows[:stop]), first))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + list(live(Run("b", {}, run.rows[stop:]), second)) == whole


def test_memory_stays_bounded_with_a_reading_at_every_step():
    detector = CatapultDetector()
    rng = np.random.default_rng(0)
    for step in range(3000):
        detector.update(step, float(np.exp(0.1 * rng.standard_normal())), sharpness=50.0, headroom=0.5)
    assert sum(len(v) for v in detector.state_dict().values() if isinstance(v, list)) < 1000


def test_losses_that_are_no_positive_numbers_are_passed_over():
    detector = CatapultDetector()
    for step in range(30):
        assert detector.update(step, [float("nan"), 0.0, -1.0, float("inf")][step % 4]) is None


def test_a_new_level_does_not_hide_what_comes_later():
    """Data change at step 300 and the loss stays higher; 1,500 steps on there is a catapult."""
    loss = np.concatenate([np.ones(300), np.full(1500, 2.0), 2 * bump()])
    kinds = [(c.kind, c.peak) for c in find_catapults(labelled.record(loss))]
    assert kinds[0][0] == "climb"
    assert any(kind == "catapult" and abs(peak - 2000) < 10 for kind, peak in kinds)


@pytest.mark.parametrize("c", [2.3, 2.7, 3.2])
@pytest.mark.parametrize("width", [256, 4096])
def test_the_uv_models_catapult_peaks_where_it_peaks(c, width):
    uv = UV(width, begin=(1.0, 2.0))
    run = uv.run(c / 2, 400)
    loss = np.maximum(run.loss.numpy(), 1e-6)
    level = np.full(20, loss[0])
    curvature = np.concatenate([np.full(20, 2.0), run.curvature.numpy()])
    record = labelled.record(np.concatenate([level, loss]), curvature, np.full(len(curvature), c / 2))
    found = [x for x in find_catapults(record) if x.kind == "catapult"]
    assert found[0].peak == 20 + int(run.peak_step)
    assert found[0].ratio == pytest.approx(float(run.peak_ratio), rel=1e-6)
    assert found[0].sharpness_before == pytest.approx(2.0)


def scores(detect, copies, seed):
    told = right = events = seen = 0
    for one in labelled.all_runs(copies, seed):
        found = [(c.onset, c.end) for c in detect(one.run) if c.kind == "catapult"]
        same = [[a[0] <= b[1] + 15 and b[0] <= a[1] + 15 for b in one.catapults] for a in found]
        told, events = told + len(found), events + len(one.catapults)
        right += sum(map(any, same))
        seen += sum(any(row[i] for row in same) for i in range(len(one.catapults)))
    return right / told, seen / events


@pytest.mark.parametrize("detect", [find_catapults, live])
def test_precision_and_recall_on_labelled_runs(detect):
    """Over all of them; a catapult that was left without an answer counts as missed."""
    precision, recall = scores(detect, 3, 99)
    assert precision >= 0.95
    assert recall >= 0.95


@pytest.mark.parametrize("in_a_row", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_bad_batches_in_a_row_are_no_catapult_without_a_look_at_the_sharpness(in_a_row, noise):
    rng = np.random.default_rng(in_a_row)
    loss = np.exp(noise * rng.standard_normal(400))
    loss[200 : 200 + in_a_row] *= 8
    for found in (find_catapults(labelled.record(loss)), list(live(labelled.record(loss)))):
        assert [c.kind for c in found] == (["jump"] if in_a_row > 1 else [])
        assert all("which only the sharpness could tell" in str(c) for c in found)
    fallen = np.where(np.arange(400) < 200, 50.0, 30.0)  # with readings there is an answer
    assert [c.kind for c in find_catapults(labelled.record(loss, fallen))] == (["catapult"] if in_a_row > 1 else [])


@pytest.mark.parametrize("growth", [1.5, 2.0, 3.0])
def test_what_grows_is_a_catapult_without_readings(growth):
    """The excess of the loss is multiplied at each step until eight times the level, then falls within one step."""
    rng, loss = np.random.default_rng(0), np.ones(400)
    rise = 7 * growth ** -np.arange(30.0)[::-1]
    loss[200 - 30 : 200] += rise
    loss *= np.exp(0.05 * rng.standard_normal(400))
    assert [c.kind for c in find_catapults(labelled.record(loss))] == ["catapult"]


def test_full_batch_losses_hold_no_bad_batches():
    loss = np.ones(400)
    loss[200:202] *= 8
    assert [c.kind for c in find_catapults(labelled.record(loss))] == ["catapult"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_spread_of_a_smoothed_value_is_that_of_normal_draws(width):
    draws = np.random.default_rng(0).standard_normal((200_000, width))
    assert float(central_mean(draws).std()) == pytest.approx(SPREAD[width], rel=0.01)


def test_kinds_are_told_from_the_fields_alone():
    assert Catapult(1, 2, None, 2.0).kind == "climb"
    assert Catapult(1, 2, 3, 2.0, 50.0, None).kind == "catapult"
    assert Catapult(1, 2, 3, 2.0, 50.0, 49.5).kind == "spike"
    assert Catapult(1, 2, 3, 2.0, 50.0, 45.0).kind == "catapult"
    assert Catapult(1, 2, 3, 2.0, 50.0, 45.0, noise=0.1).kind == "spike"
    assert Catapult(1, 2, 3, 2.0, abrupt=True).kind == "jump"
    assert Catapult(1, 2, 3, 2.0, 50.0, 45.0, abrupt=True).kind == "catapult"
    assert Catapult(1, 2, None, 2.0, abrupt=True).kind == "climb"
    assert "only 0.5 of" in str(Catapult(1, 2, 3, 2.0, headroom=0.5))
