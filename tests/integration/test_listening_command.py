"""Schedules that listen, on the command line: shown, trained with, refused."""

import csv
import json
import os

import pytest

from lrscope.cli.app import call
from lrscope.records import Run

TASK = """
import torch
import lrscope as lrs

def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g)
    data = [(row, row.sum(0, keepdim=True)) for row in x]
    loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
    def build(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    def loss_fn(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
    return lrs.Task(build, loss_fn, loader, loader, name="sum", steps=60)
"""


@pytest.fixture
def where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TASK)
    return tmp_path


def train(*argv):
    return call(["train", "mine.py:task", *argv, "--watch-every", "0"])


def test_a_catapult_warmup_and_a_decay_train_end_to_end(where, capsys):
    """The rate is what the search found, times the decay."""
    text = "catapult_warmup(target=0.2) * cosine(to=0)"
    assert train(text, "--optimizer", "sgd(momentum=0)", "--out", "out") == 0
    said = capsys.readouterr().out
    assert "catapult warmup" in said
    assert "searches" in said
    run = Run.read(where / "out" / "runs" / "planned.jsonl")
    assert run.status == "finished"
    assert any(event.kind == "measured" for event in run.events)
    assert run["lr"].value[-1] < 0.01 * run["lr"].value.max()
    stamp = (where / "out" / "runs" / "planned.jsonl").stat().st_mtime_ns
    assert train(text, "--optimizer", "sgd(momentum=0)", "--out", "out") == 0  # again: read, not repeated
    assert (where / "out" / "runs" / "planned.jsonl").stat().st_mtime_ns == stamp
    assert "searches" in capsys.readouterr().out


def test_a_plateau_hears_the_evaluations(where, capsys):
    text = "0.05 * plateau(metric=eval_loss, patience=1, threshold=0.5, factor=0.5)"
    assert train(text, "--optimizer", "sgd", "--out", "out", "--json") == 0
    rates = Run.read(where / "out" / "runs" / "planned.jsonl")["lr"].value
    assert rates[0] == 0.05
    assert rates[-1] < 0.05
    assert set((0.05 / rates).round(6)) <= {2.0**k for k in range(30)}
    assert json.loads(capsys.readouterr().out)["run"]["status"] == "finished"


def test_two_phases_from_text_drive_momentum_too(where):
    assert train("two_phase(large=0.1, small=0.01, switch=50%)", "--optimizer", "sgd", "--out", "out") == 0
    run = Run.read(where / "out" / "runs" / "planned.jsonl")
    assert run["lr"].value.tolist() == [0.1] * 30 + [0.01] * 30


def test_an_auto_ensemble_leaves_its_members_and_says_how_good_they_are(where, capsys):
    text = "auto_ensemble(low=0.001, high=0.1, members=3, window=3, distance=0.1%)"
    assert train(text, "--optimizer", "sgd", "--out", "out", "--json") == 0
    heard = json.loads(capsys.readouterr().out)["listening"]
    assert any("ensemble of" in line for line in heard)
    members = list((where / "out" / "members").glob("*.pt"))
    assert len(members) >= 2


@pytest.mark.parametrize(
    "text",
    [
        "auto_ensemble(low=0.001, high=0.1, members=3, window=3, distance=0.1%)",
        "catapult_warmup(target=0.3, over=2, share=10%) * cosine(to=0)",
        "gen(start=0.01, every=7) * cosine(to=0)",
        "two_phase(large=0.1, small=0.01, window=5, patience=1, improvement=50%)",
    ],
)
def test_stopped_and_started_again_is_never_stopped(where, text, monkeypatch):
    from lrscope.cli import progress

    assert train(text, "--optimizer", "sgd", "--out", "whole") == 0
    calls, check = iter(range(10_000)), progress.Stop.check

    def interrupted(self):
        if next(calls) == 33:
            raise KeyboardInterrupt
        check(self)

    monkeypatch.setattr(progress.Stop, "check", interrupted)
    assert train(text, "--optimizer", "sgd", "--out", "parts") == 130
    assert train(text, "--optimizer", "sgd", "--out", "parts") == 0
    whole, parts = (Run.read(where / name / "runs" / "planned.jsonl") for name in ("whole", "parts"))
    assert any(event.kind == "resumed" for event in parts.events)
    assert parts.rows == whole.rows
    names = [sorted(p.name for p in (where / name).glob("members/*.pt")) for name in ("whole", "parts")]
    assert names[0] == names[1]


def test_a_schedule_that_listens_is_read_from_a_file(where):
    from lrscope.schedules import Plateau

    (where / "mine.json").write_text(json.dumps((0.1 * Plateau()).to_spec()))
    assert train("mine.json", "--optimizer", "sgd", "--out", "out") == 0
    (where / "gen.json").write_text(json.dumps({"schedule": {"kind": "gen", "start": 0.01}}))
    assert train("gen.json", "--optimizer", "sgd", "--out", "other") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("catapult_warmup(target=1) > cosine(to=0)", "catapult_warmup(...) * cosine(to=0)"),
        (
            "plateau(metric=val)",
            "listens to 'val', which this training never reports; allowed: distance, eval_loss, loss",
        ),
        ("plateau(patience=-1)", "patience must be a whole number"),
    ],
)
def test_refusals_come_before_any_work(where, text, message, capsys):
    assert train(text) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert sorted(p.name for p in where.iterdir() if p.name != "__pycache__") == ["mine.py"]


def test_show_says_what_is_known_beforehand(capsys):
    assert (
        call(["show", "plateau(metric=eval_loss) * (warmup(5) > constant)", "--steps", "50", "--base-lr", "0.1"]) == 0
    )
    said = capsys.readouterr().out
    assert "listens to eval_loss" in said
    assert "0 to 0.1, before it is multiplied" in said
    assert "this is no preview" in said
    assert "0.1 -> 0.1" in said
    assert call(["show", "two_phase(large=1, small=0.1, switch=50%)", "--steps", "50"]) == 0
    said = capsys.readouterr().out
    assert "drives lr and momentum" in said
    assert "no preview" not in said  # a share is known beforehand
    assert call(["show", "gen(start=0.1)", "--steps", "50"]) == 0
    said = capsys.readouterr().out
    assert "measures along the way" in said
    assert "if it hears nothing" in said


def test_show_writes_the_bounds(tmp_path, capsys):
    text = "auto_ensemble(low=0.01, high=0.1) * linear(to=0)"
    assert call(["show", text, "--steps", "10", "--out", str(tmp_path / "lr.csv"), "--json"]) == 0
    rows = list(csv.DictReader((tmp_path / "lr.csv").open()))
    told = json.loads(capsys.readouterr().out)
    assert told["listens_to"] == ["distance", "loss"]
    for step, row in enumerate(rows):
        assert float(row["at most"]) == pytest.approx(0.1 * (1 - step / 10))
        assert float(row["at least"]) == pytest.approx(0.01 * (1 - step / 10))
    assert told["at most"] == [float(row["at most"]) for row in rows]
    assert call(["show", text, "--steps", "10", "--out", str(tmp_path / "lr.svg")]) == 0
    assert os.path.getsize(tmp_path / "lr.svg") > 1000
