"""``lrscope sweep`` as a person uses it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import lrscope as lrs
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
    assert 0 < result["trains_below"] < found.table["first_loss"][0]
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
    assert run["final"]["eval_loss"] == pytest.approx(result["best"]["again"]["eval_loss"], rel=1e-5)


UNEVEN = """
import torch
from torch import nn
import lrscope as lrs

class Model(nn.Module):
    def __init__(self, lucky):
        super().__init__()
        self.w, self.floor = nn.Parameter(torch.ones(())), 0.0 if lucky else 0.3

def task(kind: int = 0):
    # kind 1 is the best for one seed of three, kind 0 a little worse for every seed
    def build(seed):
        model = Model(seed == 1)
        model.floor = 0.05 if kind == 0 else model.floor
        return model
    return lrs.Task(build, lambda model, batch: model.w**2 + model.floor, [torch.zeros(2)] * 4, name="u", steps=40)
"""


def test_the_best_cell_is_the_best_over_seeds_on_the_screen_on_the_page_and_in_the_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "u.py").write_text(UNEVEN)
    assert call(["sweep", "u.py:task", "--lr", "0.01,0.02", "--axis", "kind=0,1", "--seeds", "3", "--out", "s"]) == 0
    said = lines(capsys)
    table = read("s").table
    lucky = min(table.rows(), key=lambda row: row["final_loss"])
    assert (lucky["kind"], lucky["seed"]) == (1, 1)
    medians = {(k, lr): sorted(table.where(kind=k, lr=lr)["final_loss"])[1] for k in (0, 1) for lr in (0.01, 0.02)}
    kind, lr = min(medians, key=medians.__getitem__)
    assert kind == 0
    assert any(text.startswith(f"Best: peak learning rate {lr} with kind 0") for text in said)
    (command,) = [text for text in said if text.startswith("best cell")]
    assert f"'{lr} * (constant)'" in command
    assert "--set kind=0" in command
    page = (tmp_path / "s" / "report.html").read_text()
    assert "--set kind=0" in page
    assert "--set kind=1" not in page


def test_a_command_names_its_warmup_as_it_was_asked_for_and_its_device(mine, capsys):
    words = ["--lr", "0.1,0.2", "--warmup", "10%,20%", "--decay", "linear", "--device", "cpu", "--json"]
    assert call(["sweep", mine, *words]) == 0
    result = json.loads(capsys.readouterr().out)
    lr, warmup = result["best"]["axes"]["lr"], result["best"]["axes"]["warmup"]
    assert f"'{lr} * (warmup({warmup}) > linear(to=0))'" in result["command"]
    assert "--device cpu" in result["command"]


def test_of_rates_not_varied_the_best_is_that_over_the_other_axes(mine, capsys):
    assert call(["sweep", mine, "--lr", "0.1", "--optimizer", "sgd,adam", "--seeds", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"]["axes"].keys() == {"optimizer"}
    assert result["best"]["seeds"] == 2


def test_more_values_find_the_same_directory(mine, capsys):
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--engine", "serial", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert call(["sweep", mine, "--lr", "0.01:1:3", "--engine", "serial", "--json"]) == 0
    out, err = capsys.readouterr()
    second = json.loads(out)
    assert (first["directory"], second["cells"]["all"]) == (second["directory"], 3)
    assert "of other values" not in err
    assert call(["sweep", mine, "--lr", "0.01", "--engine", "serial", "--json"]) == 0
    assert "holds 2 cells of other values, too" in capsys.readouterr().err


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
        (["--lr", "0.1,0.2", "--adaptive"], "adaptive: lr needs three values or more"),
        (["--lr", "0.1", "--engine", "processes", "--workers", "0"], "lrscope: workers: expected a positive"),
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


def test_a_sweep_that_was_stopped_before_its_first_cell_can_be_read_and_reported(mine, tmp_path, capsys):
    assert call(["sweep", mine, "--lr", "0.01,0.1", "--out", "s"]) == 0
    for path in [*(tmp_path / "s" / "cells").iterdir(), tmp_path / "s" / "table.parquet"]:
        path.unlink()
    found = read("s")
    assert (len(found.table), found.cells, len(found.failed), found.cost.gradients) == (0, [], 0, 0)
    assert lrs.sweeps.summary(found.table) == ["No run is recorded yet."]
    assert call(["report", "s"]) == 0
    assert "No run is recorded yet." in (tmp_path / "s" / "report.html").read_text()


def test_what_is_no_directory_of_a_sweep_is_one_line(mine):
    for where in ("mine.py", "nowhere"):
        with pytest.raises(ValueError, match="no directory of a sweep"):
            read(where)


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
