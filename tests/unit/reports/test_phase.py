"""Phase diagrams: the boundary and the ridge on tables made by hand, what sentences say, what pictures show."""

import doctest
import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from lrscope.records import Table
from lrscope.reports.phase import diagram as phase
from lrscope.reports.phase.axes import round_ticks
from lrscope.reports.phase.cells import bar_of, best_cell, ordered, spots, trains
from lrscope.reports.phase.diagram import draw_phase
from lrscope.reports.phase.limits import best_of, boundary, ridge
from lrscope.reports.phase.words import axis_value, row_name, summary

LRS = [2.0**k for k in range(-6, 3)]


def cell(lr, warmup=0, seed=0, *, loss=None, status="finished", **more):
    good = status == "finished"
    row = {"lr": lr, "warmup": warmup, "seed": seed, "status": status, "first_loss": 4.0}
    return {**row, "final_loss": loss if good else None, "trains": good, **more}


def parabola(lr, best=0.05):
    return 0.5 + 0.02 * math.log2(lr / best) ** 2


def row(edge, warmup=0, seed=0, best=0.05):
    """A line of the map that diverges from ``edge`` on."""
    return [
        cell(lr, warmup, seed, status="diverged") if lr >= edge else cell(lr, warmup, seed, loss=parabola(lr, best))
        for lr in LRS
    ]


def test_the_boundary_lies_between_the_last_that_trains_and_the_first_that_does_not():
    table = Table.of([*row(0.5), *row(0.5, seed=1), *row(2.0, seed=2), *row(2.0, "33%")])
    first, second = boundary(table).rows()
    assert first == {
        "warmup": 0,
        "boundary": pytest.approx(math.sqrt(0.25 * 0.5)),
        "low": 0.25,
        "high": 2.0,
        "open": None,
        "resolution": 2.0,
        "seeds": 3,
        "ragged": 0,
        "raised": 0,
    }
    assert (second["low"], second["high"], second["seeds"]) == (1.0, 2.0, 1)


def test_it_is_looked_for_upwards_from_the_best_and_says_where_it_is_ragged():
    rows = row(0.5)
    rows[0] = cell(LRS[0], loss=3.9)  # merely slow
    rows[7] = cell(LRS[7], loss=0.9)  # a lucky one
    (found,) = boundary(Table.of(rows)).rows()
    assert (found["low"], found["high"], found["ragged"]) == (0.25, 0.5, 1)


@pytest.mark.parametrize(("edge", "side"), [(math.inf, "above"), (0.0, "below")])
def test_a_boundary_beyond_the_map_is_open(edge, side):
    (found,) = boundary(Table.of([*row(edge), *row(edge, seed=1)])).rows()
    assert found["boundary"] is None
    assert found["open"] == side
    assert (found["low"], found["high"]) == ((4.0, None) if side == "above" else (None, LRS[0]))
    assert found["resolution"] is None


def test_runs_that_raised_are_left_out_and_counted():
    rows = row(0.5)
    rows[4] = cell(LRS[4], status="failed")
    (found,) = boundary(Table.of(rows)).rows()
    assert (found["low"], found["high"], found["raised"]) == (0.125, 0.5, 1)
    assert found["resolution"] == 4


def test_a_run_at_the_loss_of_guessing_did_not_train_though_it_is_below_its_first():
    table = Table.of([cell(0.1, loss=0.5), cell(1.0, loss=3.0), cell(2.0, loss=1.3)])
    assert bar_of(table) == pytest.approx(0.5 + 0.25 * 3.5)
    assert [trains(r, bar=bar_of(table)) for r in table.rows()] == [True, False, True]
    assert [trains(r, "finished", bar_of(table)) for r in table.rows()] == [True, True, True]


def test_the_tables_own_verdict_counts_too():
    assert trains(cell(0.1, loss=0.5) | {"trains": False}, bar=9.0) is False
    assert trains(cell(0.1, status="failed")) is None
    assert bar_of(Table.of([{"lr": 1.0, "status": "finished"}])) == math.inf


@pytest.mark.parametrize("best", [0.03, 0.05, 0.08])
def test_the_vertex_of_a_parabola_in_log_lr_is_exact(best):
    # In logarithms of both, as losses are compared by ratio.
    points = [(lr, math.exp(0.3 * math.log(lr / best) ** 2)) for lr in LRS]
    found = best_of(points)
    assert found is not None
    assert found.x == pytest.approx(best, rel=1e-9)


def test_three_points_unevenly_spaced_give_the_same_vertex_and_an_edge_gives_itself():
    found = best_of([(x, math.exp(math.log(x / 0.3) ** 2)) for x in (0.1, 0.2, 0.9)])
    assert found is not None
    assert found.x == pytest.approx(0.3)
    edge = best_of([(0.1, 1.0), (0.2, 2.0)])
    assert edge is not None
    assert (edge.x, edge.low, edge.high) == (0.1, None, 0.2)
    assert best_of([(0.1, None)]) is None


def test_the_ridge_spans_its_seeds():
    table = Table.of([*row(2.0, best=0.04), *row(2.0, seed=1, best=0.05), *row(2.0, seed=2, best=0.09)])
    (found,) = ridge(table).rows()
    assert found["low"] < found["best"] < found["high"]
    assert found["best"] == pytest.approx(0.05, rel=0.1)
    assert found["low"] == pytest.approx(0.04, rel=0.1)
    assert found["high"] == pytest.approx(0.09, rel=0.1)
    assert found["edge"] is None
    (falling,) = ridge(Table.of([cell(lr, loss=1 / lr) for lr in (1.0, 2.0, 4.0)])).rows()
    assert falling["edge"] == "high"


def test_higher_may_be_better():
    table = Table.of([cell(lr, loss=1.0, accuracy=a) for lr, a in ((0.1, 0.7), (0.2, 0.9), (0.4, 0.6))])
    (found,) = ridge(table, value="accuracy", better="high").rows()
    assert found["value"] == 0.9
    top = best_cell(table, value="accuracy", better="high")
    assert top is not None
    assert top.axes == {"warmup": 0, "lr": 0.2}


def test_a_cell_is_the_median_over_seeds_where_divergence_is_infinitely_bad():
    rows = [cell(0.1, seed=s, loss=v) for s, v in enumerate((0.5, 0.6, 0.9))]
    rows += [cell(0.2, seed=0, loss=0.4), cell(0.2, seed=1, status="diverged"), cell(0.2, seed=2, status="diverged")]
    rows += [cell(0.4, seed=s, status="failed") for s in range(3)]
    one, two, three = spots(Table.of(rows))
    assert (one.value, one.state, one.trained) == (0.6, "trains", 3)
    assert (two.value, two.state, two.trained) == (None, "diverged", 1)
    assert three.state == "raised"
    top = best_cell(Table.of(rows))
    assert top is not None
    assert top.axes["lr"] == 0.1
    even, torn = spots(Table.of([cell(lr, seed=s, loss=v) for lr in (0.1, 0.2) for s, v in enumerate((0.5, 0.9))]
                                + [cell(0.2, seed=s, status="diverged") for s in (2, 3)]))  # fmt: skip
    assert (even.value, torn.value) == (pytest.approx(0.7), None)


def test_without_a_warmup_rates_alone_tell_cells_apart_and_without_rates_the_axes_that_are_named():
    rows = [cell(lr, loss=parabola(lr), seed=s, width=4) for lr in LRS for s in (0, 1)]
    rows = [{k: v for k, v in r.items() if k != "warmup"} for r in rows]
    table = Table.of(rows)
    assert (len(boundary(table)), len(ridge(table))) == (1, 1)
    top = best_cell(table)
    assert top is not None
    assert top.axes == {"lr": LRS[2]}
    named = Table.of([cell(0.1, loss=v, seed=s, rule=r) for r, v in (("sgd", 1.0), ("adam", 0.5)) for s in (0, 1)])
    top = best_cell(named, None, ["rule"])
    assert top is not None
    assert (top.axes, top.value, top.seeds) == ({"rule": "adam"}, 0.5, 2)


def test_a_picture_of_no_runs_is_refused():
    with pytest.raises(ValueError, match="no run to draw"):
        draw_phase(Table({"lr": [], "warmup": [], "status": []}))


def test_an_axis_that_was_left_out_is_named():
    table = Table.of([cell(0.1, loss=1.0, width=w) for w in (64, 128)])
    with pytest.raises(ValueError, match=r"lr=0.1 and seed 0: they differ in width"):
        boundary(table)
    with pytest.raises(ValueError, match="no column 'depth'"):
        boundary(table, by=("depth",))
    with pytest.raises(ValueError, match="expected a number in every row, got '5%'"):
        boundary(Table.of([cell(0.1, "5%", loss=1.0)]), x="warmup", by=())


def test_warmups_stand_in_the_order_of_their_length():
    assert ordered(["33%", "5%", "none"]) == ["5%", "33%", "none"]
    assert ordered([10, 2, 1]) == [1, 2, 10]
    mixed = [cell(0.1, w, loss=1.0, warmup_steps=n) for w, n in (("33%", 100), ("1", 1), ("50", 50), ("5%", 15))]
    assert boundary(Table.of(mixed))["warmup"] == ["1", "5%", "50", "33%"]


def test_names_of_rows_and_values():
    assert axis_value("warmup", "33%") == "33\u202f%"
    assert axis_value("warmup", 0) == axis_value("warmup", "0%") == "none"
    assert row_name({"warmup": 0}) == "without warmup"
    assert row_name({"warmup": 1}) == "with 1 warmup step"
    assert row_name({"warmup": "5%", "width": 64}) == "with 5\u202f% warmup and width 64"
    assert row_name({}) == ""


def test_sentences_say_what_trains_what_warmup_buys_and_what_is_best():
    rows = [r for s in range(3) for r in (*row(0.5, 0, s), *row(2.0, "33%", s, best=0.2))]
    said = " ".join(summary(Table.of(rows)))
    assert (
        "Largest learning rate that trains in all 3 seeds: 0.25 without warmup and 1 with 33\u202f% warmup." in said
    )
    assert "The boundary lies 4 times as high with 33\u202f% warmup as without warmup, in every seed." in said
    assert "known to a factor of 2" in said
    assert "moves from 0.05" in said
    assert "54 runs and 18 diverged." in said


@pytest.mark.parametrize(
    ("without", "with_", "says"),
    [
        ((0.5, 0.5, 1.0), (2.0, 1.0, 2.0), "lies 2 times as high with 33\u202f% warmup as without warmup, in every seed (2 to 4 times)."),
        ((0.5, 0.5, 1.0), (2.0, 1.0, 1.0), "lies 2 times as high with 33\u202f% warmup as without warmup in the median: higher in 2 of 3 seeds, lower in 0."),
        ((0.5, 0.5, 1.0), (2.0, 0.25, 1.0), "lies at the same rate with 33\u202f% warmup as without warmup in the median: higher in 1 of 3 seeds, lower in 1."),
        ((0.5,), (0.5,), "lies at the same rate with 33\u202f% warmup as without warmup."),
        ((1.0, 1.0), (0.5, 0.5), "lies 0.5 times as high with 33\u202f% warmup as without warmup, in every seed."),
        ((1.0, 1.0), (1.0, 0.25), "lies 0.5 times as high with 33\u202f% warmup as without warmup in the median: higher in 0 of 2 seeds, lower in 1."),
        ((0.5, 0.5, 1.0), (1.0, 1.0, math.inf), "lies 2 times as high with 33\u202f% warmup as without warmup, in the 2 of 3 seeds in which both lie within the rates tried."),
        ((0.5, 0.5, 1.0), (1.0, 0.5, math.inf), "higher in 1 of 2 seeds, lower in 0; in 1 more one of both lies outside the rates tried."),
    ],
)  # fmt: skip
def test_what_warmup_buys_is_told_seed_by_seed(without, with_, says):
    rows = [r for w, edges in ((0, without), ("33%", with_)) for s, edge in enumerate(edges) for r in row(edge, w, s)]
    assert any(text.endswith(says) for text in summary(Table.of(rows)))


def test_sentences_of_open_ends_and_of_nothing():
    said = " ".join(summary(Table.of(row(math.inf))))
    assert "at least 4 without warmup" in said
    one_fails = [*row(math.inf), *row(math.inf, seed=1), *row(0.5, seed=2)]
    assert summary(Table.of(one_fails))[0] == "Largest learning rate that trains in all 3 seeds: 0.25 without warmup."
    none = " ".join(summary(Table.of(row(0.0))))
    assert "none of those tried" in none
    assert "No learning rate trained" in none


def test_rows_of_several_axes_are_told_by_their_extremes_and_rows_where_nothing_trained_are_not_every_row():
    edges = {(w, width): 0.5 for w in (0, "33%") for width in (8, 16, 32, 64)} | {(0, 16): 0.0, ("33%", 32): 2.0}
    rows = [{**r, "width": width} for (w, width), edge in edges.items() for r in row(edge, w)]
    said = summary(Table.of(rows), by=("warmup", "width"))
    assert said[0] == (
        "Largest learning rate that trains: from none of those tried with no warmup and width 16 to 1 with 33\u202f% "
        "warmup and width 32, over 8 rows."
    )
    assert any("of the 7 of 8 rows in which runs trained lies around" in text for text in said)


def test_divergence_is_told_apart_from_failing_to_train():
    rows = row(2.0)
    rows[6] = cell(LRS[6], loss=3.0)
    said = summary(Table.of(rows))
    assert said[0] == "Largest learning rate that trains: 0.5 without warmup."
    assert said[1] == "Largest learning rate that does not diverge: 1 without warmup."


def table_2d(warmups=(0, "5%", "33%"), seeds=2):
    edges = dict(zip(warmups, (0.5, 1.0, 2.0, 4.0), strict=False))
    return Table.of(r for w in warmups for s in range(seeds) for r in row(edges[w], w, s))


def texts(ax):
    legend = ax.get_figure().legends[0]
    return [t.get_text() for t in legend.get_texts()]


def test_the_map_shows_boundary_ridge_best_and_theory():
    ax = draw_phase(table_2d(), theory={"2 / sharpness": 0.3, "per row": [0.4, 0.8, 1.6], "by name": {"5%": 0.7}})
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "peak learning rate"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["none", "5\u202f%", "33\u202f%"]
    assert texts(ax) == [
        *("diverged", "largest rate that trains", "its interval over seeds", "best rate of each row", "best cell"),
        *("2 / sharpness", "per row", "by name"),
    ]
    (line,) = [
        x for x in ax.lines if x.get_linestyle() == "-" and len(x.get_xdata()) == 6 and x.get_linewidth() == 1.7
    ]
    expected = np.repeat([math.sqrt(0.25 * 0.5), math.sqrt(0.5 * 1), math.sqrt(1 * 2)], 2)
    np.testing.assert_allclose(line.get_xdata(), expected)
    mpl.pyplot.close(ax.figure)


def test_colour_is_the_median_and_bright_is_good():
    ax = draw_phase(table_2d(seeds=1))
    faces = {round(p.get_x() + p.get_width() / 2, 6): p.get_facecolor() for p in ax.patches if p.get_y() == -0.5}
    light = [sum(np.array(c[:3]) * (0.3, 0.59, 0.11)) for c in faces.values()]
    best = int(np.argmin([parabola(lr) for lr in LRS]))
    assert light[best] == max(light[: len([lr for lr in LRS if lr < 0.5])])
    assert light[best] > light[0]
    mpl.pyplot.close(ax.figure)


def test_rows_tried_at_different_rates_show_where_runs_are():
    rows = [r for r in table_2d().rows() if r["warmup"] != "5%" or math.log2(r["lr"]) % 2]
    ax = draw_phase(Table.of(rows))
    assert "runs" in texts(ax)
    mpl.pyplot.close(ax.figure)


def test_small_multiples_share_colours_and_x():
    rows = [{**r, "width": w, "lr": r["lr"] * 64 / w} for w in (64, 128) for r in table_2d().rows()]
    panels = draw_phase(Table.of(rows), over="width", theory={"2 / sharpness": {64: 0.5, 128: 0.25}})
    for ax, x in zip(panels, (0.5, 0.25), strict=True):
        assert any(np.allclose(line.get_xdata(), x) and line.get_linestyle() != "-" for line in ax.lines)
    assert [ax.get_title(loc="left") for ax in panels] == ["width 64", "width 128"]
    assert panels[0].get_xlim() == panels[1].get_xlim()
    with pytest.raises(ValueError, match="2 panels are needed, got 1"):
        draw_phase(Table.of(rows), over="width", ax=panels[0])
    mpl.pyplot.close(panels[0].figure)


def test_one_axis_gives_lines_with_bands():
    ax = draw_phase(table_2d(), y=None, over="warmup", theory={"2 / sharpness": 0.3})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        *("without warmup", "with 5\u202f% warmup", "with 33\u202f% warmup", "2 / sharpness"),
    ]
    assert len(ax.collections) == 3
    plain = draw_phase(Table.of([{k: v for k, v in r.items() if k != "warmup"} for r in row(0.5)]))
    assert plain.get_ylabel() == "final training loss"
    mpl.pyplot.close("all")


def test_regimes_are_drawn_by_name():
    named = [{**r, "regime": "diverged" if r["status"] == "diverged" else "lazy"} for r in table_2d().rows()]
    ax = draw_phase(Table.of(named), value="regime")
    assert texts(ax)[:2] == ["lazy", "diverged"]
    mpl.pyplot.close(ax.figure)


@pytest.mark.parametrize("rows", [row(0.0), row(math.inf), [cell(0.1, loss=1.0)], [cell(0.1, status="failed")]])
def test_maps_of_nothing_much_are_drawn(rows):
    draw_phase(Table.of(rows)).figure.canvas.draw()
    draw_phase(Table.of(rows), y=None).figure.canvas.draw()
    mpl.pyplot.close("all")


def test_one_name_is_as_good_as_a_list_of_one():
    table = table_2d()
    assert boundary(table, by="warmup").to_dict() == boundary(table, by=["warmup"]).to_dict()
    assert summary(table, by="warmup") == summary(table)


def test_the_example_of_the_docstring():
    assert doctest.testmod(phase).failed == 0
    mpl.pyplot.close("all")


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'accuracy'"):
        draw_phase(table_2d(), value="accuracy")
    with pytest.raises(ValueError, match="2 numbers for 3 rows of warmup"):
        draw_phase(table_2d(), theory={"short": [1.0, 2.0]})
    mpl.pyplot.close("all")


@pytest.mark.parametrize(("low", "high"), [*itertools.combinations((1e-5, 3e-3, 0.52, 0.6, 1.01, 7.0, 4e3), 2)])
def test_ticks_of_the_colour_bar_are_few_and_inside(low, high):
    for log in (True, False):
        ticks = round_ticks(low, high, log=log)
        assert len(ticks) <= 6
        assert all(low <= t <= high for t in ticks)
