"""The Python of docs/schedules.md runs as it is printed, from top to bottom, and does what the page says."""

import re
from pathlib import Path

import numpy as np
import torch

from lrscope import schedules as lrs

PAGE = Path(__file__).parents[3] / "docs" / "schedules.md"


class Kept(list):
    def log(self, metrics, step):
        self.append((step, metrics))


def test_the_page_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.setattr("lrscope.schedules.base._KINDS", {**lrs.base.kinds()})
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names = {"__name__": "page", "logger": Kept()}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert repr(names["s"]) == "Linear(0.0, 1.0, 500).then(Cosine(1.0, 0.0, 9500))"
    ((step, metrics),) = names["logger"]
    assert step == 6_000
    assert {"lr/body", "lr/head"} <= set(metrics)
    assert metrics["lr/body"] == names["optimizer"].param_groups[0]["lr"]
    assert isinstance(names["optimizer"], torch.optim.AdamW)


def test_restarts_cut_at_a_cycle_hold_the_peak_unless_they_are_ended():
    cut = lrs.parse("restarts(period=50)", 100)
    ended = lrs.parse("restarts(period=50) > constant(0, value=0)", 100)
    assert np.array_equal(cut.values(100), ended.values(100))
    assert (cut(100), cut(1000)) == (1.0, 1.0)
    assert (ended(100), ended(1000)) == (0.0, 0.0)
    assert ended.values(200).tolist() == cut.then(0.0).values(200).tolist()
