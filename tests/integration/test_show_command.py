"""``lrscope show`` as a person uses it: what it prints, writes and refuses."""

import csv
import json

import pytest

from lrscope.cli.app import call
from lrscope.schedules import parse

TEXT = "warmup(10%) > constant(40) > cosine(to=0)"


def test_the_table_has_the_rates_of_the_first_and_last_update_of_each_part(capsys):
    assert call(["show", TEXT, "--steps", "100", "--base-lr", "0.1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " -> " in line]
    s = parse(TEXT, 100)
    assert f"0 -> {0.1 * s(9):.6g} (to 0.1) " in rows[0]
    assert "0.1 -> 0.1 " in rows[1]
    assert f"0.1 -> {0.1 * s(99):.6g} (to 0)" in rows[2]


@pytest.mark.parametrize(
    ("text", "flag"), [("warmup(1 epoch)", "--steps-per-epoch"), ("warmup(5 tokens)", "--tokens-per-step")]
)
def test_a_length_in_other_units_asks_for_the_flag(text, flag, capsys):
    for options in ([], [flag, "-1"]):
        assert call(["show", f"{text} > cosine(to=0)", "--steps", "100", *options]) == 2
        said = capsys.readouterr().err
        assert flag in said
        assert "Horizon" not in said


def test_a_long_run_is_sampled_with_its_joins(capsys, monkeypatch):
    """A peak of one update at a join is in the chart, though hardly any step is looked at."""
    from lrscope.schedules import Schedule

    def values(self, num_steps=None):
        raise AssertionError("every step was asked for")

    monkeypatch.setattr(Schedule, "values", values)
    for options in ([], ["--json"]):
        assert (
            call(["show", "constant(49999999) > (9 * constant(1)) > constant", "--steps", "100000000", *options]) == 0
        )
        said = capsys.readouterr().out
    assert json.loads(said)["horizon"] == 100_000_000
    assert call(["show", "constant(49999999) > (9 * constant(1)) > constant", "--steps", "100000000"]) == 0
    said = capsys.readouterr().out
    assert "     9 ┤" in said
    assert said.rstrip().endswith("99999999")


def test_a_figure_of_a_long_run_ends_at_its_last_step(tmp_path):
    out = tmp_path / "lr.svg"
    assert call(["show", "cosine(to=0)", "--steps", "3000000", "--out", str(out)]) == 0
    assert "<!-- 1e6 -->" in out.read_text()  # the unit of the axis of steps


def test_a_table_has_every_step(tmp_path):
    out = tmp_path / "lr.csv"
    assert call(["show", TEXT, "--steps", "100", "--base-lr", "0.1", "--out", str(out)]) == 0
    with out.open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == (0.1 * parse(TEXT, 100).values(100)).tolist()


@pytest.mark.parametrize(
    ("out", "said"), [("lr.txt", "--out: the name must end in"), ("no/lr.csv", "create it first")]
)
def test_what_cannot_be_written_is_refused_first(out, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(["show", TEXT, "--steps", "100", "--out", out]) == 2
    heard = capsys.readouterr()
    assert said in heard.err
    assert heard.out == ""
