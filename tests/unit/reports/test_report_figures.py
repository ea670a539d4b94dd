"""Figures: every one returns the axes it drew on, labels them, and marks what must not be overlooked."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

import report_cases as cases
from lrscope import reports
from lrscope.records import Run, Table
from lrscope.reports.figures.marks import spread
from lrscope.reports.figures.style import COLOURS, settings
from lrscope.reports.figures.trials import level
from lrscope.reports.svg import inline, render
from lrscope.reports.trials import best, cells


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return reports.load(cases.full(tmp_path_factory.mktemp("figures")))


@pytest.fixture
def ax():
    return Figure(layout="constrained").add_subplot()


def texts(ax) -> str:
    return " | ".join(t.get_text() for t in ax.texts)


def test_loss_curves_label_every_run_and_mark_catapults(story, ax):
    assert reports.loss_curves(story.runs, ax) is ax
    assert ax.get_xlabel() == "step (optimizer updates)"
    for label in ("plan 0.2280", "default 0.3020", "cosine 0.2510", "2 catapults, ×2.1"):
        assert label in texts(ax)


def test_metric_curves(story, ax):
    assert reports.metric_curves(story.runs, "accuracy", ax) is ax
    assert "plan 0.9430" in texts(ax)
    low, high = ax.get_ylim()
    names = {t.get_text().split()[0]: t.xy[1] for t in ax.texts}
    assert names["plan"] == pytest.approx((0.943 - low) / (high - low), abs=0.1)  # beside the end of its line


def test_the_stability_limit_has_a_logarithmic_axis_and_names_the_region_beyond(story, ax):
    assert reports.stability_limit(story.runs["planned"], ax, warmup_steps=60) is ax
    assert ax.get_yscale() == "log"
    assert "beyond what curvature allows" in texts(ax)
    assert "warmup ends" in texts(ax)


def test_headroom_shows_the_limit_even_where_it_is_never_reached(story, ax):
    reports.headroom(story.runs["planned"], ax)
    assert ax.get_ylim()[0] < 1 < ax.get_ylim()[1]


@pytest.mark.parametrize("transpose", [False, True])
def test_the_map_prints_scores_and_the_step_of_divergence(story, ax, transpose):
    reports.lr_warmup_map(story.trials, ax, horizon=60, plan=story.plan, transpose=transpose)
    shown = [c for c in cells(story.trials) if c.horizon == 60]
    printed = texts(ax)
    for cell in shown:
        assert (f"×{cell.diverged_at}" if cell.diverged else f"{cell.score:.2f}") in printed
    hatched = [p for p in ax.patches if p.get_hatch()]
    assert len(hatched) == sum(c.diverged > 0 for c in shown)


def test_score_against_lr(story, ax):
    reports.score_against_lr(story.trials, ax, horizon=60, plan=story.plan)
    assert ax.get_xscale() == "log"
    assert ax.get_title(loc="left") == "60 steps" or ax.get_title() == "60 steps"


def test_figures_of_no_axes_make_their_own(story):
    with mpl.rc_context({"backend": "agg"}):
        from matplotlib import pyplot as plt

        axes = reports.loss_curves(story.runs)
        plt.close(axes.figure)


def test_map_levels_are_shares_above_the_best(story):
    some = [c for c in cells(story.trials) if c.horizon == 400]
    top = best(some)
    assert level(top, top) == 0
    assert all(0 <= level(c, top) <= 5 for c in some)


def test_labels_are_spread_without_changing_their_order_and_stay_beside_the_axes():
    places = spread([0.5, 0.51, 0.49, 1.0, 1.0], 0.1)
    assert sorted(range(5), key=lambda i: places[i]) == [2, 0, 1, 3, 4]
    ordered = sorted(places)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 1


def test_svg_follows_the_page_and_names_no_address():
    def draw(figure):
        ax = figure.add_subplot()
        ax.fill_between([0, 1], [1, 2], color=COLOURS["planned"][0], hatch="//")
        ax.set_xlabel('a "quoted" <label>')

    svg = render(draw, "one", 300, 200, compact=False, alt='he said "<no>"')
    assert svg.startswith('<svg viewBox="0 0 300 200" role="img" aria-label="he said &quot;&lt;no>&quot;">')
    assert "var(--planned)" in svg
    assert "http" not in svg
    assert "font-family" not in svg
    assert "<style" not in svg
    assert svg == render(draw, "one", 300, 200, compact=False, alt='he said "<no>"')  # the same bytes every time


def test_ids_that_nothing_refers_to_are_dropped():
    svg = inline('<svg viewBox="0 0 1 1"><g id="a"><path id="b"/><use xlink:href="#b"/></g></svg>', "k", "alt")
    assert 'id="a"' not in svg
    assert 'id="k-b"' in svg
    assert 'href="#k-b"' in svg


def test_colours_are_all_different_so_that_each_can_be_found_again():
    light = [pair[0] for pair in COLOURS.values()]
    assert len(light) == len(set(light))


@pytest.mark.parametrize("columns", [7, 13, 18])
def test_numbers_of_a_map_with_many_columns_stay_inside_their_cells(columns):
    rows = [
        {"horizon": 100, "lr": 1e-5 * 2.0**k, "warmup_frac": 0.0, "score": 10.0 ** (k - 3), "status": "finished"}
        for k in range(columns)
    ]
    figure = Figure(figsize=(760 / 72, 1.5), dpi=72, layout="constrained")
    with mpl.rc_context(settings()):
        ax = reports.lr_warmup_map(Table.of(rows), figure.add_subplot())
        figure.draw_without_rendering()
    cell = ax.get_window_extent().width / columns
    assert all(text.get_window_extent().width < cell for text in ax.texts)
    labels = [label.get_window_extent() for label in ax.get_xticklabels()]
    upright = ax.get_xticklabels()[0].get_rotation() == 0
    assert all(a.x1 < b.x0 for a, b in pairwise(labels)) or not upright


def test_the_reading_of_adam_before_its_first_update_sets_no_limits(ax):
    rows = tuple({"step": s, "lr": 0.01, "stable_lr": 1e-9 if s == 0 else 0.1, "headroom": 0.1} for s in range(5))
    run = Run("run", {"optimizer": {"name": "adamw"}}, rows)
    reports.stability_limit(run, ax)
    assert ax.get_ylim()[0] > 1e-4
