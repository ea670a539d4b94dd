"""The command line as a person uses it: one job end to end, stopped and killed on the way, and wrong usage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrscope.cli.app import call
from lrscope.records import Run

TASK = '''
"""A user's own task: a tiny regression with dict batches."""
import time
import torch
from torch import nn
import lrscope as lrs

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    def forward(self, x):
        return self.inner(x)

def loss_fn(model, batch):
    time.sleep(SLOW)
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])

def task(examples: int = 64, steps: int = 60):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 3, generator=g)
    data = [{"x": row, "y": row.sum(0, keepdim=True)} for row in x]
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
    return lrs.Task(lambda seed: Net(), loss_fn, loader, loader, name="sum", steps=steps)

def broken():
    return 3
'''


@pytest.fixture
def where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASK.replace("SLOW", "0"))
    Path("slow.py").write_text(TASK.replace("SLOW", "0.005"))
    return tmp_path


RUN = ["--optimizer", "sgd", "--budget", "12", "--seeds", "1"]


def test_the_main_job_end_to_end_and_again(where, capsys):
    assert call(["run", "mine.py:task", *RUN, "--out", "out", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["runs"]["planned"]["status"] == "finished"
    assert first["plan"]["steps"] == 60
    out = where / "out"
    assert {p.name for p in out.iterdir()} >= {"plan.json", "run.json", "run.parquet", "report.html", "trials.jsonl"}
    assert json.loads((out / "plan.json").read_text()) == first["plan"]
    planned = Run.read(out / "runs" / "planned.jsonl")
    assert {"loss", "lr", "eval_loss", "sharpness", "headroom", "stable_lr"} <= set(planned.columns)
    assert planned["lr"].value.max() == pytest.approx(first["plan"]["peak_lr"])

    # The same command finds everything and repeats nothing; another one is refused the directory.
    stamp = (out / "runs" / "planned.jsonl").stat().st_mtime_ns
    assert call(["run", "mine.py:task", *RUN, "--out", "out"]) == 0
    said = capsys.readouterr()
    assert "report: out/report.html" in said.out
    assert "plan found in out" in said.err
    assert (out / "runs" / "planned.jsonl").stat().st_mtime_ns == stamp
    assert call(["run", "mine.py:task", *RUN, "--out", "out", "--seed", "5"]) == 2
    assert "out holds the results of another command (seed: there 0, asked 5)" in capsys.readouterr().err
    assert call(["report", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "out/report.html"}


def test_plan_and_train_are_the_parts_of_run(where, capsys):
    assert call(["plan", "mine.py:task", *RUN, "--set", "examples=32", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["plan"]
    assert call(["train", "mine.py:task", made["schedule_text"], "--optimizer", "sgd", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert run["status"] == "finished"
    assert "headroom" in run["final"]
    assert call(["train", "mine.py:task", "100 * constant()", "--optimizer", "sgd", "--out", "high"]) == 3
    assert "diverged" in capsys.readouterr().out
    assert Run.read(where / "high" / "runs" / "planned.jsonl").status == "diverged"


def start(*argv: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lrscope", *argv],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(condition, seconds=120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


SLOW = ["slow.py:task", "--optimizer", "sgd", "--budget", "12", "--seeds", "1", "--out", "out"]


def test_ctrl_c_while_planning_keeps_the_trials_and_the_same_command_goes_on(where):
    process = start("run", *SLOW)
    log = where / "out" / "trials.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    known = log.read_text().splitlines()
    assert not (where / "out" / "plan.json").exists()
    assert call(["report", "out"]) == 0  # works on what is there
    assert start("run", *SLOW).wait(timeout=120) == 0
    assert log.read_text().splitlines()[: len(known)] == known
    keys = [
        (r["horizon"], r["lr"], r["warmup_frac"], r["seed"]) for r in map(json.loads, log.read_text().splitlines())
    ]
    assert len(keys) == len(set(keys))


def test_ctrl_c_and_kill_while_training_lose_nothing_that_was_flushed(where):
    text = "0.01 * linear(from=1, to=0)"
    whole = ["train", "slow.py:task", text, "--optimizer", "sgd", "--steps", "300", "--watch-every", "50"]
    assert start(*whole, "--out", "whole").wait(timeout=120) == 0
    rows = where / "parts" / "runs" / "planned.jsonl"

    process = start(*whole, "--out", "parts")
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert Run.read(rows).status == "interrupted"
    assert Run.read(rows).steps_done >= 20

    process = start(*whole, "--out", "parts")
    seen = rows.read_text().count("\n")
    wait_for(lambda: rows.read_text().count("\n") >= seen + 30)
    process.kill()
    process.wait()
    process.stderr.close()
    process.stdout.close()
    assert call(["report", "parts"]) == 0
    assert "interrupted" in (where / "parts" / "report.html").read_text()

    assert start(*whole, "--out", "parts").wait(timeout=120) == 0
    unbroken, resumed = Run.read(where / "whole" / "runs" / "planned.jsonl"), Run.read(rows)
    assert resumed.status == "finished"
    for column in ("loss", "lr", "eval_loss"):
        assert resumed[column].value.tolist() == unbroken[column].value.tolist()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "digit"], "digits"),
        (["run", "nothing.py:task"], "nothing.py"),
        (["run", "mine.py:tusk"], "task"),
        (["run", "mine.py:broken"], "int"),
        (["run", "mine.py:task", "--set", "exampels=3"], "examples"),
        (["run", "mine.py:task", "--set", "examples"], "name=value"),
        (["run", "mine.py:task", "--steps", "0"], "--steps"),
        (["run", "mine.py:task", "--optimizer", "sdg"], "sgd"),
        (["run", "mine.py:task", "--warmups", "200%"], "--warmups"),
        (["run", "mine.py:task", "--device", "abacus"], "--device"),
        (["run", "mine.py:task", "--budget", "0.1"], "budget"),
        (["run", "cifar10", "--data", "nowhere"], "nowhere"),
        (["train", "mine.py:task", "warmup(6%) > cosin(to=0)"], "cosine"),
        (["report", "nowhere"], "nowhere"),
        (["show", "cosine(to=0)", "--steps", "-1"], "steps"),
        (["run"], "TASK"),
        (["runn"], "run"),
        (["run", "mine.py:task", "--stepz", "3"], "--steps"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(where, capfd, argv, said):
    before = sorted(p.name for p in where.iterdir())
    assert call(argv) == 2
    error = capfd.readouterr()
    assert said in error.err + error.out
    assert "Traceback" not in error.err
    assert sorted(p.name for p in where.iterdir() if p.name != "__pycache__") == before


def test_help_and_version_and_both_ways_to_start():
    for argv in (["--help"], ["--version"], ["run", "--help"], ["show", "--help"]):
        done = subprocess.run([sys.executable, "-m", "lrscope", *argv], capture_output=True, text=True, check=True)
        assert done.stdout
    import lrscope

    assert lrscope.__version__ in subprocess.run(["lrscope", "--version"], capture_output=True, text=True).stdout


def test_a_reader_that_goes_away_is_no_error(where):
    done = subprocess.run(
        f"{sys.executable} -m lrscope show 'cosine(to=0)' --steps 100 | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
