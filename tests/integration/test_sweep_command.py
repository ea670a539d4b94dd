"""``lrscope sweep`` as a person uses it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lrscope.cli.app import call
from lrscope.sweeps import read

TASK = """
import time
import torch
from torch import nn
import lrscope as lrs

def loss_fn(model, batch):
    time.sleep(SLOW)
    x, y = batch
    return nn.functional.mse_loss(model(x), y)

SLOW = 0.0

class Build:
    def __init__(self, width, bad):
        self.width, self.bad = width, bad
    def __call__(self, seed):
        if seed == self.bad:
            raise RuntimeError("a bad seed")
        return nn.Sequential(nn.Linear(3, self.width), nn.Tanh(), nn.Linear(self.width, 1))

def task(width: int = 4, bad: int = -1, path: str = ""):
    print("said by the user's code")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, generator=g)
    batches = [(x[i : i + 8], x[i : i + 8].sum(1, keepdim=True)) for i in range(0, 32, 8)]
    return lrs.Task(Build(width, bad), loss_fn, batches, batches, name="sum", steps=20)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TASK)
    return "mine.py:task"


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_sweep_answers_writes_and_goes_on(mine, tmp_path, capsys):
    command = ["sweep", mine, "--lr", "2^-4:2^2", "--warmup", "0,50%", "--seeds", "2", "--out", "s"]
    assert call(command) == 0
    said = lines(capsys)
    assert said[0].startswith("Largest learning rate that trains")
    assert said[-3:] == ["table: s/table.parquet", "picture: s/phase.png", "report: s/report.html"]
    found = read("s")
    assert len(found.table) == 28
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "cells").iterdir()}
    assert call([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)  # nothing but JSON on stdout, whatever the task prints
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "cells").iterdir()} == before
    assert result["cells"]["all"] == 28
    assert result["best"]["eval_loss"] == min(v for v in found.table["eval_loss"] if v is not None)
    assert call(["report", "s"]) == 0
    assert lines(capsys) == ["report: s/report.html"]


def test_the_command_of_the_best_cell_trains_it_again(mine, capsys):
    import shlex

    assert call(["sweep", mine, "--lr", "0.01,0.1", "--axis", "width=4,8", "--axis", "momentum=0,0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["directory"].startswith("lrscope-runs/sweep-mine-py-task-")
    program, *words = shlex.split(result["command"])
    assert program == "lrscope"
    assert call([*words, "--json", "--watch-every", "0"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert run["final"]["eval_loss"] == pytest.approx(result["best"]["eval_loss"], rel=1e-5)


def test_more_values_find_the_same_directory(mine, capsys):
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--engine", "serial", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert call(["sweep", mine, "--lr", "0.01:1:3", "--engine", "serial", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["directory"], second["cells"]["all"]) == (second["directory"], 3)


def test_cells_that_raise_are_counted_and_the_exit_code_is_one(mine, capsys):
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--seeds", "3", "--set", "bad=2", "--out", "s"]) == 1
    assert "2 of 6 cells raised: RuntimeError: a bad seed" in capsys.readouterr().out
    assert "raise RuntimeError" in read("s").record(read("s").failed["cell"][0])["traceback"]


def test_where_nothing_trains_the_answer_is_bad(mine, capsys):
    assert call(["sweep", mine, "--lr", "1e6,1e7", "--out", "s"]) == 3
    assert capsys.readouterr().out


def test_an_adaptive_sweep_skips_most_of_the_grid(mine, capsys):
    assert call(["sweep", mine, "--lr", "2^-12:2^6", "--adaptive", "--out", "s", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 4 <= result["cells"]["all"] < 19
    assert result["skipped"]
    assert call(["sweep", mine, "--lr", "2^-12:2^6", "--adaptive", "--out", "s", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["cells"], again["skipped"]) == (result["cells"], result["skipped"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "1e-4:1"], "--lr: '1e-4:1' does not say how many points"),
        ([], "--lr: no learning rates"),
        (["--lr", "0.1", "--axis", "widht=3"], "widht: nothing of that name to vary (did you mean 'width'?)"),
        (["--lr", "0.1", "--axis", "width"], "--axis: expected name=values"),
        (["--lr", "0.1", "--axis", "lr=3"], "--axis: lr has an option of its own"),
        (["--lr", "0.1", "--axis", "width=3", "--set", "width=3"], "--set: width is an axis too"),
        (["--lr", "0.1", "--schedule", "constant", "--decay", "linear"], "--decay: given beside --schedule"),
        (["--lr", "0.1", "--workers", "2"], "--workers: is for --engine processes"),
        (["--lr", "0.1", "--within", "serial"], "--within: is for --engine processes or ray"),
        (["--lr", "0.1", "--address", "auto"], "--address: is for --engine ray"),
        (["--lr", "0.1", "--measure", "speed"], "--measure: 'speed' is not known"),
        (["--lr", "0.1", "--optimizer", "sdg"], "did you mean 'sgd'"),
        (["--lr", "0.1", "--steps", "0"], "--steps: expected a whole number"),
        (["--lr", "0.1", "--out", "mine.py"], "--out: mine.py is a file"),
        (["--lr", "0.1", "--out", "."], "--out: . holds something else than a sweep"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(mine, tmp_path, capsys, words, said):
    assert call(["sweep", mine, *words]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lrscope:")]
    assert said in err[-1]
    assert not (tmp_path / "lrscope-runs").exists()


def test_another_sweep_is_refused_and_fresh_moves_it_aside(mine, tmp_path, capsys):
    assert call(["sweep", mine, "--lr", "0.1", "--out", "s"]) == 0
    assert call(["sweep", mine, "--lr", "0.1", "--steps", "7", "--out", "s"]) == 2
    assert "steps: there None, asked 7" in capsys.readouterr().err
    assert call(["sweep", mine, "--lr", "0.1", "--steps", "7", "--out", "s", "--fresh"]) == 0
    assert len(read("s.before-1").table) == 1


def test_a_damaged_cell_is_told_in_one_line(mine, tmp_path, capsys):
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--out", "s"]) == 0
    path = next((tmp_path / "s" / "cells").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--out", "s"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "quarantine" in line]
    assert len(said) == 1
    assert said[0].startswith(f"lrscope: s/cells/{path.name} is damaged")


def test_an_unwritable_place_is_one_line_and_exit_code_one(mine, capsys):
    assert call(["sweep", mine, "--lr", "0.1", "--out", "/proc/nowhere/s"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("lrscope: ")


@pytest.fixture
def slow(mine, tmp_path):
    (tmp_path / "mine.py").write_text(TASK.replace("SLOW = 0.0", "SLOW = 0.02"))
    words = ["sweep", mine, "--lr", "2^-6:2^-2", "--seeds", "2", "--out", "s", "--engine", "serial"]
    return [sys.executable, "-m", "lrscope", *words]


def wait_for_cells(count, process):
    deadline = time.monotonic() + 60
    while not os.path.isdir("s/cells") or len(os.listdir("s/cells")) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(slow):
    with subprocess.Popen(slow, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_for_cells(2, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; what was done is in s, and the same command goes on from there" in err
    assert "Traceback" not in err
    done = len(read("s").table)
    assert 2 <= done < 10
    assert subprocess.run(slow, capture_output=True).returncode == 0
    assert len(read("s").table) == 10


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_loses_nothing(slow):
    limited = ["bash", "-c", 'ulimit -f 3; exec "$@"', "bash", *slow]  # kilobytes: cells fit, the table does not
    full = subprocess.run(limited, capture_output=True, text=True)
    assert full.returncode == 1
    assert "File too large" in full.stderr.splitlines()[-1]
    assert len(read("s").table) == 10
    assert not [name for name in os.listdir("s") if name.endswith(".partial")]
    assert subprocess.run(slow, capture_output=True).returncode == 0
