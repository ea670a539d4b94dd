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

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(task().train.dataset)

def endless():
    return lrs.Task(lambda seed: Net(), loss_fn, torch.utils.data.DataLoader(Endless(), 16), name="endless", steps=5)

def bad_metric():
    good = task()
    return lrs.Task(good.build, loss_fn, good.train, metrics={"bad": lambda m, b: [1]}, steps=40)

class Late:
    """Calls that go well until the task was tried, and some while later do not."""
    def __init__(self, error, after):
        self.error, self.calls, self.after = error, 0, after
    def __call__(self, model, batch):
        print("said by the user's code")
        self.calls += 1
        if self.calls > self.after:
            raise {"type": TypeError, "stop": KeyboardInterrupt}[self.error]("batch 7 is torn")
        return loss_fn(model, batch)

def late(error: str = "type", after: int = 20):
    good = task()
    return lrs.Task(good.build, Late(error, after), good.train, name="late", steps=40)

class Torn(torch.utils.data.Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, i):
        if i == 31:
            raise ValueError("image 31 is torn")
        return {"x": torch.ones(3), "y": torch.ones(1)}

def torn(workers: int = 0):
    loader = torch.utils.data.DataLoader(Torn(), 4, num_workers=workers)
    return lrs.Task(lambda seed: Net(), loss_fn, loader, name="torn", steps=40)

def unsure():
    """Metrics that are not always a number."""
    good = task()
    metrics = {"odd": lambda m, b: torch.tensor(float("nan"))}
    return lrs.Task(good.build, loss_fn, good.train, good.evaluate, metrics=metrics, steps=40)
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
    whole = ["train", "slow.py:task", text, "--optimizer", "sgd", "--steps", "200", "--watch-every", "50"]
    assert start(*whole, "--out", "whole").wait(timeout=120) == 0
    rows = where / "parts" / "runs" / "planned.jsonl"

    process = start(*whole, "--out", "parts")
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what was done is in parts, and the same command goes on from there" in said
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
        (["run", "mine.py:task", "--budget", "0.1"], "lrscope: --budget: it buys 6"),
        (["run", "mine.py:task", "--budget", "0.1"], "give --budget "),
        (["run", "mine.py:task", "--steps", "100000000000"], "--steps: expected at most 100,000,000 updates"),
        (["show", "cosine(to=0)", "--steps", "100000000000"], "--steps: expected at most"),
        (["run", "mine.py:task", "--engine", "steam"], "--engine"),
        (["run", "mine.py:task", "--watch-every", "-1"], "--watch-every"),
        (["plan", "mine.py:task", "--seed", "-1"], "--seed"),
        (["plan", "mine.py:task", "--seeds", "0"], "--seeds"),
        (["train", "mine.py:task", "linear(from=0.1, to=-0.1)"], "negative learning rate"),
        (["run", "mine.py:bad_metric"], "metrics"),
        (["run", "mine.py:late", "--set", "after=0"], "(mine.py, line 48: raise {"),
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

    program = Path(sys.executable).with_name("lrscope")
    assert lrscope.__version__ in subprocess.run([program, "--version"], capture_output=True, text=True).stdout


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


TRAIN = ["--optimizer", "sgd", "--watch-every", "0"]
SCHEDULE = "0.01 * linear(from=1, to=0)"


def edit(name, before, after):
    text = Path(name).read_text()
    assert before in text
    Path(name).write_text(text.replace(before, after))


def test_an_edited_task_never_gets_the_results_of_the_old_one(where, capsys):
    command = ["train", "mine.py:task", SCHEDULE, *TRAIN, "--json"]
    assert call(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert call(command) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == first
    assert f"training: already finished, read from {Path(first['report']).parent}" in again.err
    edit("mine.py", "nn.functional.mse_loss(", "2 * nn.functional.mse_loss(")
    assert call(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["report"] != first["report"]
    assert second["run"]["final"]["eval_loss"] != first["run"]["final"]["eval_loss"]


def test_a_given_directory_is_refused_to_an_edited_task(where, capsys):
    command = ["train", "mine.py:late", SCHEDULE, *TRAIN, "--set", "error=stop", "--out", "out"]
    assert call(command) == 130
    edit("mine.py", "nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)", "nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1)")
    before = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert call(command) == 2
    said = capsys.readouterr().err
    assert "--out: out holds older results; the task has changed since (its file was edited; its parameters" in said
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before


def test_an_edit_beside_the_task_file_is_noticed_by_the_first_loss(where, capsys):
    Path("scale.py").write_text("SCALE = 1.0\n")
    edit("mine.py", "import torch\n", "import torch, runpy\nSCALE = runpy.run_path('scale.py')['SCALE']\n")
    edit("mine.py", "nn.functional.mse_loss(", "SCALE * nn.functional.mse_loss(")
    command = ["train", "mine.py:task", SCHEDULE, *TRAIN]
    assert call(command) == 0
    Path("scale.py").write_text("SCALE = 1.5\n")
    assert call(command) == 2
    assert "the task has changed since (its first batch has another loss)" in capsys.readouterr().err
    assert call([*command, "--fresh"]) == 0


def test_a_loader_without_a_length(where, capsys):
    assert call(["train", "mine.py:endless", SCHEDULE, *TRAIN]) == 0
    assert "run: finished after 5 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (["mine.py:late"], "TypeError: batch 7 is torn (mine.py, line 48: raise {"),
        (["mine.py:torn"], "ValueError: image 31 is torn (mine.py, line 60: raise ValueError("),
        (["mine.py:torn", "--set", "workers=1"], "ValueError: image 31 is torn (mine.py, line 60: raise ValueError("),
    ],
)
def test_an_error_in_the_users_code_is_failed_work_in_one_line(where, capsys, monkeypatch, task, said):
    command = ["train", task[0], SCHEDULE, *task[1:], *TRAIN, "--out", "out"]
    assert call(command) == 1
    found = capsys.readouterr()
    (line,) = [text for text in found.err.splitlines() if "torn (" in text]
    assert line.startswith(f"lrscope: the work failed with {said}")
    assert line.endswith("what was done is in out; LRSCOPE_TRACEBACK=1 shows the whole traceback")
    assert "Traceback" not in found.err
    assert found.out == ""
    if task == ["mine.py:late"]:
        monkeypatch.setenv("LRSCOPE_TRACEBACK", "1")
        assert call(command) == 1
        assert "Traceback" in capsys.readouterr().err


def test_a_bug_of_ours_shows_its_traceback(where, monkeypatch):
    def bug(*_, **__):
        raise ValueError("ours")

    monkeypatch.setattr("lrscope.cli.failures.in_one_line", lambda error: "ours")
    monkeypatch.setattr("lrscope.tasks.place._is_users", lambda file: False)
    monkeypatch.setattr("lrscope.training.train", bug)
    with pytest.raises(Exception, match="the work failed with ours"):
        call(["train", "mine.py:task", SCHEDULE, *TRAIN])


@pytest.mark.parametrize("command", [["plan", *RUN[:2], "--budget", "40"], ["train", SCHEDULE, *TRAIN]])
def test_ctrl_c_says_where_the_results_are(where, capsys, command):
    argv = [command[0], "mine.py:late", *command[1:], "--set", "error=stop", "--set", "after=40", "--out", "out"]
    assert call(argv) == 130
    assert "what was done is in out, and the same command goes on from there" in capsys.readouterr().err


def test_a_refused_task_moves_nothing_aside(where, capsys):
    command = ["train", "mine.py:task", SCHEDULE, *TRAIN, "--out", "out"]
    assert call(command) == 0
    edit("mine.py", "return nn.functional.mse_loss(", "return 3, nn.functional.mse_loss(")
    assert call([*command, "--fresh"]) == 2
    assert [p.name for p in where.iterdir() if p.is_dir() and p.name.startswith("out")] == ["out"]


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_and_free_of_the_users_prints(where, capsys):
    assert call(["train", "mine.py:unsure", SCHEDULE, *TRAIN, "--json", "--out", "odd"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=refuse)
    for path in [*Path("odd").rglob("*.json"), *Path("odd").rglob("*.jsonl")]:
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=refuse)
    assert call(["train", "mine.py:late", SCHEDULE, *TRAIN, "--set", "after=1000", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["run"]["name"] == "run"
    assert "said by the user's code" in said.err


JUMPS = ("catapult", "spike", "climb")


def test_jumps_lost_to_a_kill_are_found_again(where, capsys):
    command = ["train", "mine.py:task", "0.3 * constant()", "--optimizer", "sgd", "--steps", "60", "--out", "out"]
    assert call(command) == 0
    lines = Path("out/runs/planned.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    for row in rows:
        if "loss" in row and 20 <= row["step"] < 30:
            row["loss"] = 1e3  # a jump that comes back
    kept = [json.dumps(row) for row in rows if row.get("event") not in JUMPS]
    lines.write_text("\n".join(kept) + '\n{"event": "cata')
    assert call(command) == 0
    found = [e for e in Run.read(lines).events if e.kind in JUMPS]
    assert found
    text = lines.read_text()
    assert call(command) == 0
    assert lines.read_text() == text


def test_a_bare_shape_is_warned_of(where, capsys):
    assert call(["train", "mine.py:task", "warmup(20%) > cosine(to=0)", *TRAIN, "--steps", "5"]) in (0, 3)
    said = capsys.readouterr()
    assert "peak learning rate 1: did you mean 3e-4 * (...)?" in said.err
    assert "planned" not in said.out + said.err.replace("planned.jsonl", "")


def test_a_terminal_without_our_characters_loses_nothing():
    command = [sys.executable, "-m", "lrscope", "show", "cosine(to=0)", "--steps", "9"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0, done.stderr
