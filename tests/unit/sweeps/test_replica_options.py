"""Options of the replicas engine that a sweep hands on."""

import pytest
import torch

from cases import TASKS
from lrscope.cli.sweep import _engine
from lrscope.sweeps import Replicas, sweep


def test_precision_reaches_the_runs_and_the_table_says_so():
    before = torch.get_float32_matmul_precision()
    seen, task = set(), TASKS["tuple"]()
    inner = task.loss_fn
    object.__setattr__(task, "loss_fn", lambda m, b: (seen.add(torch.get_float32_matmul_precision()), inner(m, b))[1])
    found = sweep(task, lr=[0.05, 0.1], steps=5, engine=Replicas(matmul_precision="medium"))
    assert "medium" in seen
    assert found.table["engine"] == ["replicas, medium matmul precision"] * 2
    assert torch.get_float32_matmul_precision() == before
    assert sweep(task, lr=0.1, steps=5, engine="replicas").table["engine"] == ["replicas"]


def test_compile_reaches_the_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: calls.append(1) or function)
    options = {"lr": [0.05, 0.1], "steps": 5}
    found = sweep(TASKS["tuple"](dtype=torch.float64), **options, engine=Replicas(compile=True))
    plain = sweep(TASKS["tuple"](dtype=torch.float64), **options, engine="serial")
    assert calls
    assert found.table["final_loss"] == pytest.approx(plain.table["final_loss"], rel=1e-9)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"matmul_precision": "low"}, "matmul_precision: expected one of highest"),
        ({"compile": 1}, "compile: expected"),
    ],
)
def test_refused_before_anything_runs(how, said):
    with pytest.raises(ValueError, match=said):
        Replicas(**how)


def test_the_command_offers_precision_by_name_for_replicas():
    assert _engine("replicas", None, None, None, "medium") == Replicas(matmul_precision="medium")
    assert _engine("replicas", None, None, None, None) == "replicas"
    with pytest.raises(ValueError, match="--matmul-precision: is for --engine replicas, got --engine auto"):
        _engine("auto", None, None, None, "medium")
