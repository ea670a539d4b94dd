import csv
import json

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.cli.show import show
from lrscope.errors import ScheduleError
from lrscope.reports.preview import plot_schedule

TEXT = "warmup(10%) > cosine(to=0.1)"


def test_a_chart_has_its_width_and_height_and_shows_a_short_peak():
    values = np.zeros(10_000)
    values[1234] = 3.0
    rows = lrs.chart(values, width=60, height=5).splitlines()
    assert len(rows) == 6
    assert max(map(len, rows)) <= 60
    assert "█" in rows[0]
    assert rows[0].lstrip().startswith("3 ")
    assert rows[-1].endswith("9999")


@pytest.mark.parametrize("values", [[0.0], [1.0], [-1.0, 2.0], np.ones(500), np.linspace(0, 1e-9, 7)])
@pytest.mark.parametrize("width", [20, 71])
def test_any_values_can_be_drawn(values, width):
    assert max(map(len, lrs.chart(values, width=width).splitlines())) <= width
    assert len(lrs.sparkline(values, width=width)) == width


def test_what_cannot_be_drawn_is_refused():
    for bad in ([], [float("nan")], np.zeros((2, 2))):
        with pytest.raises(ScheduleError, match="values"):
            lrs.chart(bad)
    with pytest.raises(ScheduleError, match="width"):
        lrs.chart([1.0], width=3)


def test_segments_of_what_is_no_schedule_are_refused():
    for wrong in (3, "cosine"):
        with pytest.raises(ScheduleError, match="segments: needs a Schedule"):
            lrs.segments(wrong)


def test_segments_are_resolved_and_scaled():
    rows = lrs.segments(0.5 * lrs.parse(TEXT, 100))
    assert [(r.first, r.last, r.start, r.end) for r in rows] == [(0, 9, 0.0, 0.5), (10, 99, 0.5, 0.05)]
    (row,) = lrs.segments(lrs.InverseSqrt(1.0, 3))
    assert (row.last, row.end) == (None, None)
    (product,) = lrs.segments(lrs.warmup(3) * lrs.Cosine(1, 0, 9))
    assert (product.first, product.last, product.start, product.end) == (0, 8, 0.0, 0.0)


def test_show_prints_what_runs(capsys):
    show(TEXT, steps=100, base_lr=0.3)
    text = capsys.readouterr().out
    assert "0 ... 9    0 -> 0.27 (to 0.3)" in text
    assert "10 ... 99  0.3 -> 0.03" in text
    assert "99" in text.splitlines()[-1]
    show("cosine(40)", steps=100)
    assert "40 ... 99" in capsys.readouterr().out


def test_show_json_reads_back(capsys):
    show(TEXT, steps=1000, base_lr=0.3, json=True)
    data = json.loads(capsys.readouterr().out)
    schedule = lrs.from_spec(data["spec"])
    assert schedule == lrs.parse(TEXT, 1000)
    assert data["num_steps"] == 1000
    assert data["values"] == [0.3 * schedule(t) for t in data["steps"]]
    assert data["steps"][0] == 0
    assert data["steps"][-1] == 999


def test_show_writes_rows_that_read_back_exactly(tmp_path):
    show(TEXT, steps=30, base_lr=0.3, out=tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == (0.3 * lrs.parse(TEXT, 30).values()).tolist()


def test_show_draws(tmp_path):
    show(TEXT, steps=30, out=tmp_path / "s.svg")
    assert "<svg" in (tmp_path / "s.svg").read_text()
    with pytest.raises(ScheduleError, match="must end in"):
        show(TEXT, steps=30, out=tmp_path / "s.xls")
    with pytest.raises(ScheduleError, match="does not exist"):
        show(TEXT, steps=30, out=tmp_path / "no" / "s.csv")


def test_a_figure_is_axes_in_axes_out():
    ax = plot_schedule({"a": [1.0, 0.5, 0.0], "b": [1.0, 1.0]})
    assert ax.get_xlabel() == "optimizer step"
    assert ax.get_ylabel() == "learning rate"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert plot_schedule({"c": [0.1, 0.0]}, ax, yscale="log") is ax
    assert ax.get_yscale() == "log"
    for bad in ({}, {"a": []}, {"a": [[1.0]]}):
        with pytest.raises(ValueError, match="schedules"):
            plot_schedule(bad)


@pytest.mark.parametrize("peak", [1.0, 3.33e-5, -1.23e-5, 1e30])
def test_the_axis_of_a_chart_is_straight_however_long_its_labels(peak):
    *rows, axis = lrs.chart(peak * lrs.Linear(1.0, 0.0, 500).values(), width=40, height=4).splitlines()
    assert len({row.index("┤") for row in rows} | {axis.index("└")}) == 1
    assert max(map(len, [*rows, axis])) <= 40
    assert f"{peak:.3g}" in "".join(rows)
