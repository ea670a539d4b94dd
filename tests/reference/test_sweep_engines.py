"""Whichever engine runs a sweep, its table is the same: bit for bit, or to rounding."""

import subprocess
import sys

import pytest
import torch

from cases import TASKS
from lrscope.sweeps import Processes, sweep
from lrscope.tasks import Task

STEPS = 200
AXES = {
    "lr": [0.003, 0.05],
    "warmup": [0, "10%"],
    "momentum": [0.0, 0.9],
    "weight_decay": 0.01,
    "seeds": 2,
    "schedule": "warmup({warmup}) > cosine(to=0.1)",
    "measure": ["sharpness"],
}
NUMBERS = ("first_loss", "final_loss", "best_loss", "eval_loss", "sharpness_start", "sharpness_end")


def make(kind: str = "tuple") -> Task:
    return TASKS[kind](dtype=torch.float64)


def rows(found):
    return [{k: v for k, v in row.items() if k not in ("engine", "seconds")} for row in found.table.rows()]


@pytest.fixture(scope="module")
def serial():
    return sweep(make, steps=STEPS, engine="serial", **AXES)


def test_processes_are_serial_bit_for_bit(serial, tmp_path):
    found = sweep(make, steps=STEPS, engine=Processes(workers=2), out=tmp_path / "s", **AXES)
    assert rows(found) == rows(serial)
    for cell in serial.cells:
        mine, other = found.record(cell), serial.record(cell)
        assert (mine["curve"], mine["events"], mine["config"]) == (other["curve"], other["events"], other["config"])


@pytest.mark.parametrize("engine", ["replicas", "auto"])
def test_replicas_are_serial_to_rounding(serial, engine):
    found = sweep(make, steps=STEPS, engine=engine, **AXES)
    assert found.cells == serial.cells
    for mine, other in zip(found.table.rows(), serial.table.rows(), strict=True):
        assert mine["status"] == other["status"]
        for name in NUMBERS:
            # The readings of the sharpness stop at a residual of 1 %, wherever the start vector led them.
            assert mine[name] == pytest.approx(other[name], rel=1e-4 if "sharpness" in name else 1e-6), name
        a, b = found.curve(mine["cell"]), serial.curve(mine["cell"])
        assert a.step.tolist() == b.step.tolist()
        assert a.value == pytest.approx(b.value, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "giadam"])
def test_so_it_is_for_other_rules_and_other_models(optimizer):
    options = {"optimizer": optimizer, "lr": [1e-3, 1e-2], "kind": ["tuple", "relu"], "seeds": 2, "steps": 60}
    one, many = (sweep(make, engine=engine, **options) for engine in ("serial", "replicas"))
    for mine, other in zip(many.table.rows(), one.table.rows(), strict=True):
        assert mine["status"] == other["status"]
        for name in NUMBERS[:4]:
            assert mine[name] == pytest.approx(other[name], rel=1e-6), name


@pytest.mark.slow
def test_a_script_needs_no_guard_where_its_task_has_a_name(tmp_path):
    """Workers are new interpreters: they do not run the user's script again."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import lrscope as lrs\n"
        "print('once')\n"
        "found = lrs.sweep('digits', lr=[0.01, 0.1], steps=3, engine=lrs.sweeps.Processes(workers=1))\n"
        "print(found.table['status'])\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert said.stdout == "once\n['finished', 'finished']\n"


@pytest.mark.slow
def test_a_function_of_the_script_itself_is_found_by_its_path(tmp_path):
    script = tmp_path / "mine.py"
    body = "found = lrs.sweep(make, lr=[0.1], width=[4, 8], steps=3, engine=lrs.sweeps.Processes(workers=1))\n"
    head = (
        "import lrscope as lrs\n"
        "from lrscope.tasks import digits\n"
        "def make(width: int = 4):\n    return digits(width=width)\n"
    )
    show = "print(found.table['status'], list(found.failed['error']))\n"
    script.write_text(head + "if __name__ == '__main__':\n    " + body + "    " + show)
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert said.stdout == "['finished', 'finished'] []\n"
    script.write_text(head + body + show)  # without the guard
    said = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert said.returncode == 1
    assert "put the call under if __name__ == '__main__':" in said.stderr.strip().splitlines()[-1]
