"""The planner on landscapes whose boundary and optimum are known: found as finely as stated, with few runs."""

import doctest
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.records import Table
from lrscope.reports.phase.limits import boundary, ridge
from lrscope.sweeps import adaptive
from lrscope.sweeps.adaptive import Adaptive

GRID = [2.0**k for k in range(-12, 5)]


def loss_of(best: float, edge: float) -> Callable[[float], float | None]:
    """A parabola in log lr that diverges from ``edge`` on."""
    return lambda lr: None if lr >= edge else 0.5 + 0.02 * math.log(lr / best) ** 2


def run(point: dict, landscape: Callable[[float], float | None]) -> dict:
    value = landscape(point["lr"])
    status = "diverged" if value is None else "finished"
    return {**point, "status": status, "first_loss": 4.0, "final_loss": value, "trains": value is not None}


def explore(planner: Adaptive, of: Callable[[dict], Callable], most: int = 200) -> Table:
    rows = []
    for _ in range(most):
        points = planner.next(Table.of(rows))
        if not points:
            return Table.of(rows)
        keys = [tuple(p.values()) for p in points]
        assert len(set(keys)) == len(keys)
        done = {tuple(row[k] for k in points[0]) for row in rows}
        assert not done & set(keys), "asked twice"
        rows += [run(p, of(p)) for p in points]
    raise AssertionError("no end")


@settings(max_examples=60, deadline=None)
@given(st.floats(-11, 2), st.floats(0.3, 10), st.sampled_from([None, 1.3]))
def test_the_full_grid_and_the_planner_find_the_same(log_best, gap, resolution):
    best, edge = 2**log_best, 2 ** (log_best + gap)
    planner = Adaptive({"lr": GRID, "seed": [0]}, resolution=resolution)
    table = explore(planner, lambda p: loss_of(best, edge))
    full = Table.of(run({"lr": lr, "seed": 0}, loss_of(best, edge)) for lr in GRID)
    (found,), (whole,) = (list(boundary(t, by=()).rows()) for t in (table, full))
    ratio = resolution or 2.0
    if whole["open"] is None:
        assert found["resolution"] <= ratio * (1 + 1e-9)
        assert whole["low"] <= found["low"] < found["high"] <= whole["high"]
    else:
        assert found["open"] == whole["open"]
    (top,), (reference,) = (list(ridge(t, by=()).rows()) for t in (table, full))
    assert top["value"] <= reference["value"] + 1e-12
    if reference["edge"] is None and best * ratio < edge:
        assert abs(math.log(top["best"] / best)) <= math.log(ratio) * 1.01


def test_far_fewer_runs_than_the_grid():
    grid = [2 ** (k / 4) for k in range(-48, 17)]
    axes = {"lr": grid, "width": [64], "warmup": [0, "5%", "33%"], "seed": [0, 1, 2]}
    edges = {0: 0.3, "5%": 0.7, "33%": 2.5}
    planner = Adaptive(axes)
    table = explore(planner, lambda p: loss_of(0.05, edges[p["warmup"]] * 1.1 ** p["seed"]))
    assert len(table) < 0.25 * len(grid) * 9
    for row in boundary(table).rows():
        assert row["low"] < edges[row["warmup"]] * 1.21
        assert edges[row["warmup"]] <= row["high"]
    said = planner.skipped()
    assert said[0].startswith(f"{len(table)} runs instead of the 585 of the full grid")
    assert any("beyond" in text and "without warmup" in text for text in said)
    assert "width" not in " ".join(said)


def test_a_lucky_run_above_the_boundary_does_not_move_it():
    lucky = 1.0

    def ragged(p):
        whole = loss_of(0.01, 0.2)
        return lambda lr: 0.9 if math.isclose(lr, lucky) else whole(lr)

    table = explore(Adaptive({"lr": GRID, "seed": [0]}), ragged)
    (row,) = boundary(table, by=()).rows()
    assert (row["low"], row["high"]) == (0.125, 0.25)


def test_seeds_that_differ_are_each_followed_to_their_own_boundary():
    edges = [0.3, 2.5, 0.02]
    table = explore(Adaptive({"lr": GRID, "seed": [0, 1, 2]}), lambda p: loss_of(0.004, edges[p["seed"]]))
    for seed, edge in enumerate(edges):
        (row,) = boundary(table.where(seed=seed), by=()).rows()
        assert row["low"] < edge <= row["high"]
        assert row["high"] / row["low"] == 2


def test_nothing_finer_is_sought_than_the_seeds_agree_to():
    axes = {"lr": GRID, "seed": [0, 1, 2]}
    apart, alike = (Adaptive(axes, resolution=1.05) for _ in range(2))
    far = explore(apart, lambda p: loss_of(0.004 * 8 ** (p["seed"] - 1), 0.3 * 16 ** (p["seed"] - 1)))
    near = explore(alike, lambda p: loss_of(0.004, 0.3))
    assert boundary(far, by=())["resolution"][0] == 2
    assert boundary(near, by=())["resolution"][0] <= 1.05 * (1 + 1e-9)
    assert any("differs between seeds by a factor of 256" in text for text in apart.skipped())
    assert not any("differs between seeds" in text for text in alike.skipped())


def test_noise_of_the_seeds_leaves_the_optimum_within_their_spread():
    rng = np.random.default_rng(0)
    noise = {(lr, seed): float(rng.normal(0, 0.01)) for lr in GRID for seed in range(5)}

    def of(p):
        clean = loss_of(0.03, 0.7)
        return lambda lr: None if (v := clean(lr)) is None else v + noise[lr, p["seed"]]

    (row,) = ridge(explore(Adaptive({"lr": GRID, "seed": list(range(5))}), of), by=()).rows()
    assert row["low"] <= 0.03 <= row["high"] or abs(math.log2(row["best"] / 0.03)) < 1


def test_where_nothing_trains_it_gives_up_and_says_so():
    planner = Adaptive({"lr": GRID, "warmup": [0], "seed": [0]})
    table = explore(planner, lambda p: lambda lr: None)
    assert len(table) < 12
    assert any("none of which trained" in text for text in planner.skipped())


def test_a_small_region_that_trains_between_skeleton_points_is_found():
    table = explore(Adaptive({"lr": GRID, "seed": [0]}), lambda p: lambda lr: 1.0 if 0.1 < lr < 1.1 else None)
    assert boundary(table, by=())["high"][0] == 2.0


def test_runs_that_raised_are_neither_asked_again_nor_counted():
    def of(p):
        return loss_of(0.03, 0.7)

    rows, planner = [], Adaptive({"lr": GRID, "seed": [0]})
    for _ in range(50):
        points = planner.next(Table.of(rows))
        if not points:
            break
        for p in points:
            row = run(p, of(p))
            broken = p["lr"] in (0.25, 0.5)
            rows.append({**row, "status": "failed", "final_loss": None, "trains": False} if broken else row)
    else:
        pytest.fail("no end")
    lrs = [row["lr"] for row in rows]
    assert len(lrs) == len(set(lrs))
    (row,) = boundary(Table.of(rows), by=()).rows()
    assert row["low"] <= 0.125
    assert row["high"] == 1.0


def test_interrupted_anywhere_it_goes_on_as_if_never_stopped():
    axes = {"lr": GRID, "warmup": [0, "33%"], "seed": [0, 1]}
    whole = explore(Adaptive(axes), lambda p: loss_of(0.01, 0.2 if p["warmup"] == 0 else 1.0))
    rows = list(whole.rows())
    random.Random(0).shuffle(rows)
    for count in (0, 3, len(rows) // 2, len(rows)):
        kept = rows[:count]
        first, second = Adaptive(axes).next(Table.of(kept)), Adaptive(axes).next(Table.of(reversed(kept)))
        assert first == second
    assert Adaptive(axes).next(Table.of(rows)) == []


@pytest.mark.parametrize(
    ("axes", "options", "says"),
    [
        ({"warmup": [0]}, {}, "no axis 'lr'"),
        ({"lr": [0.0, 1.0, 2.0]}, {}, "positive numbers"),
        ({"lr": [1.0, 2.0]}, {}, "three values or more"),
        ({"lr": [1.0, 2.0, 4.0]}, {"resolution": 1.0}, "ratio above 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(axes, options, says):
    with pytest.raises(ValueError, match=says):
        Adaptive(axes, **options)


def test_the_example_of_the_docstring():
    assert doctest.testmod(adaptive).failed == 0
