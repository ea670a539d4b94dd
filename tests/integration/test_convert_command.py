"""``lrscope convert`` as a person uses it: what it prints, writes and refuses."""

import csv
import json

import numpy as np
import pytest

from lrscope.cli.app import call
from lrscope.schedules import Constant, Piecewise, exponential_equivalent, exponential_rate, from_spec

EPOCH = 391
PAPER = ["--base-lr", "0.1", "--weight-decay", "5e-4", "--momentum", "0.9"]
STEP_DECAY = [f"piecewise(values=[1, 0.1, 0.01], at=[{80 * EPOCH}, {120 * EPOCH}])", "--steps", str(300 * EPOCH)]


def test_it_prints_both_rates_by_phase(capsys):
    assert call(["convert", *STEP_DECAY, *PAPER]) == 0
    said = capsys.readouterr().out
    for lr in (0.1, 0.01, 0.001):
        assert f"{exponential_rate(lr, 5e-4, 0.9) ** -2:.6f}" in said  # growth per step, phase by phase
    assert "0.1 -> 4.42e+12" in said
    assert "last rate       0.001 -> 4.28e+11" in said
    assert "before update 27603: weights divided by 1048576, momentum buffers multiplied by it" in said
    assert "Exact for scale-invariant weights" in said


def test_json_holds_the_schedule_itself(capsys):
    decay = f"0.0005 * constant({EPOCH})"
    assert call(["convert", *STEP_DECAY, *PAPER[:2], "--weight-decay", decay, *PAPER[4:], "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = from_spec(data["spec"])
    expected = exponential_equivalent(
        Piecewise((1.0, 0.1, 0.01), (80 * EPOCH, 120 * EPOCH)), base_lr=0.1, weight_decay=5e-4, momentum=0.9,
        steps=300 * EPOCH,
    )  # fmt: skip
    assert np.array_equal(found.values(), expected.values())
    assert np.allclose(data["values"], 0.1 * expected.values()[data["steps"]], rtol=1e-15)
    assert data["rebases"] == {"27603": 2.0**20}
    assert [len(data[key]) for key in ("steps", "original_values", "log10_values", "momentum_values")] == [200] * 4
    assert [phase["first"] for phase in data["phases"]] == [0, 80 * EPOCH, 120 * EPOCH]


def test_the_table_is_enough_to_run_from(tmp_path, capsys):
    out = tmp_path / "lr.csv"
    arguments = ["--base-lr", "0.5", "--weight-decay", "0.3", "--momentum", "0.5", "--rule", "decoupled"]
    assert call(["convert", "constant", "--steps", "60", *arguments, "--out", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    s = exponential_equivalent(Constant(1.0), base_lr=0.5, weight_decay=0.3, momentum=0.5, steps=60, rule="decoupled")
    assert [float(row["lr"]) for row in rows] == (s.recurrence.lr[:60]).tolist()
    assert [float(row["momentum"]) for row in rows] == s.recurrence.momentum[:60].tolist()
    assert {
        t: float(r["divide_weights_by"]) for t, r in enumerate(rows) if r["divide_weights_by"] != "1.0"
    } == s.rebases


def test_growth_per_step_is_told_only_where_the_rate_is_constant(capsys):
    schedule = "warmup(10) > constant(40) > cosine(to=0)"
    assert call(["convert", schedule, "--steps", "100", *PAPER, "--json"]) == 0
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert [phase["growth_per_step"] is None for phase in phases] == [True, False, True]


def test_a_rate_of_zero_is_said(capsys):
    assert call(["convert", "0 * constant", "--steps", "100", *PAPER]) == 0
    said = capsys.readouterr().out
    assert "the rate is 0 throughout" in said
    assert "┤" not in said


def test_a_length_in_epochs_asks_for_the_flag(capsys):
    assert call(["convert", "warmup(1 epoch) > cosine(to=0)", "--steps", "100", *PAPER]) == 2
    assert "--steps-per-epoch" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("steps", ["50", "60000"])  # the longer one passes what a float holds
def test_a_figure_is_written(tmp_path, suffix, steps):
    out = tmp_path / f"lr.{suffix}"
    setting = ["--base-lr", "1", "--weight-decay", "0.02", "--momentum", "0"]
    assert call(["convert", "warmup(10%) > cosine(to=0)", "--steps", steps, *setting, "--out", str(out)]) == 0
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nesterov"], "nesterov=True has no exact equivalent"),
        (["--weight-decay", "0.5"], "no positive rescaling exists"),
        (["--momentum", "1"], "momentum must be in [0, 1)"),
        (["--weight-decay", "cosin(to=0)"], "did you mean 'cosine'"),
        (["--out", "lr.txt"], "--out: the name must end in .csv"),
        (["--out", "nowhere/lr.csv"], "does not exist; create it first"),
        (["--steps", "0"], "--steps: expected a positive number"),
        (["--rule", "nesterov"], "nesterov"),
        (["--no-rebase", "--steps", "200000"], "passes 1e30"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_has_no_equivalent_is_refused_in_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"--steps": "1000", "--base-lr": "0.1", "--weight-decay": "5e-4", "--momentum": "0.9"}
    flags = [name for name in arguments if name in ("--nesterov", "--no-rebase")]
    given = [name for name in arguments if name not in flags]
    options |= dict(zip(given[::2], given[1::2], strict=True))
    assert call(["convert", "constant", *flags, *(x for pair in options.items() for x in pair)]) == 2
    heard = capsys.readouterr()
    assert said in heard.err
    assert heard.out == ""
    if "--rule" not in arguments:  # the parser of the command line draws a box around its own refusals
        assert heard.err.count("\n") == 1
