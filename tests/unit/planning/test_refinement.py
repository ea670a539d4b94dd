"""From a run that logged its gradient norms to the next run's schedule: the library, and the command."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

import cases
from lrscope.cli.app import call
from lrscope.errors import MeasurementError, ScheduleError
from lrscope.planning import refine
from lrscope.records import Run
from lrscope.schedules import Linear, from_spec, refined, warmup
from lrscope.training import GradientNorm, gradient_norms, train

STEPS = 60
SHAPE = warmup(6).then(Linear(1.0, 0.0, STEPS - 6))


@pytest.fixture(scope="module")
def run():
    return train(cases.TASKS["dict"](), "sgd", 0.1 * SHAPE, STEPS, probes=[GradientNorm()])


def test_the_norms_are_those_of_the_gradients(run):
    task, seen = cases.TASKS["dict"](), []

    class ByHand:
        name, every = "by_hand", None

        def __call__(self, state):
            g = torch.cat([p.grad.flatten() for p in state.model.parameters()]).double()
            seen.append((float(g.norm()), float(g.abs().sum())))
            return {}

    train(task, "sgd", 0.1 * SHAPE, STEPS, probes=[ByHand()])
    assert run["gradient_norm"].step.tolist() == list(range(STEPS))
    l2, l1 = zip(*seen, strict=True)
    np.testing.assert_allclose(run["gradient_norm"].value, l2, rtol=1e-5)
    np.testing.assert_allclose(run["gradient_norm_l1"].value, l1, rtol=1e-5)


def test_norms_of_sparse_half_and_missing_gradients():
    dense, half, none = (torch.nn.Parameter(torch.zeros(4, dtype=d)) for d in (torch.float32, torch.half, torch.half))
    half.grad = torch.full((4,), 6e4, dtype=torch.half)  # its square is beyond half precision
    assert gradient_norms([half, none]) == pytest.approx((12e4, 24e4), rel=1e-3)
    index = torch.tensor([[1, 1]])  # one entry, given in two parts
    dense.grad = torch.sparse_coo_tensor(index, torch.tensor([3.0, 2.0]), (4,))
    assert gradient_norms([dense]) == (5.0, 5.0)
    assert gradient_norms([none]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("optimizer", "column", "norm"), [("sgd", "gradient_norm", "l2"), ("adamw", "gradient_norm_l1", "l1")]
)
def test_the_norm_follows_the_optimizer_and_the_schedule_is_refined_times_the_old_peak(optimizer, column, norm):
    peak = 0.01
    run = train(cases.TASKS["dict"](), optimizer, peak * SHAPE, STEPS, probes=[GradientNorm()])
    found = refine(run, steps=200)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = peak * refined(run[column].value, norm=norm, steps=200)
    assert [str(w.message) for w in caught] == [found.note] * bool(found.note)
    assert found.norm == norm
    assert found.peak_lr == pytest.approx(peak)
    assert np.array_equal(found.schedule.values(201), expected.values(201))
    assert found.schedule(200) == 0
    assert from_spec(json.loads(json.dumps(found.to_dict()))["schedule"]) == found.schedule
    assert refine(run).steps == STEPS


def with_norms(norms, **more):
    rows = tuple({"step": t, "lr": 0.3, "gradient_norm": float(g)} for t, g in enumerate(norms))
    return Run("made", {"optimizer": {"name": "sgd"}}, (*rows, {"step": len(rows)}), **more)


def test_large_first_gradients_become_a_warmup():
    found = refine(with_norms([1 + 4 * math.exp(-t / 60) for t in range(1000)]))
    values = found.schedule.values(found.steps)
    assert values.max() == pytest.approx(0.3, rel=1e-4)  # stretched from 996 points
    assert values[0] < 0.02
    assert 0.05 < found.peak_frac < 0.5
    assert found.note == ""


def test_vanishing_norms_are_linear_decay_and_say_so():
    found = refine(with_norms([10 ** (-t / 100) for t in range(500)]))
    assert "linear decay" in found.note
    assert found.schedule.values(500).tolist() == (0.3 * Linear(1.0, 0.0, 500)).values(500).tolist()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"status": "diverged"},
            MeasurementError,
            "diverged after 30 updates; a schedule is refined from a whole run",
        ),
        ({"status": "interrupted"}, MeasurementError, "was interrupted after 30 updates"),
        ({"rows": ({"step": 0, "lr": 1.0},)}, MeasurementError, "has no gradient_norm, only lr; train it with"),
        ({"rows": ({"step": 0, "gradient_norm": 1.0},)}, MeasurementError, "no learning rate above 0"),
        ({"config": {"optimizer": "make_optimizer"}}, MeasurementError, "trained by 'make_optimizer'"),
        ({"config": {}}, MeasurementError, "does not say the norm"),
        (
            {"rows": tuple({"step": t, "lr": 1.0, "gradient_norm": 1.0} for t in range(9))},
            ScheduleError,
            "needs 16 finite norms",
        ),
    ],
)
def test_what_cannot_be_refined_is_refused_in_one_line(change, error, said):
    good = with_norms([1.0] * 30)
    parts = {"name": "made", "config": good.config, "rows": good.rows} | change
    with pytest.raises(error, match=said) as raised:
        refine(Run(**parts))
    assert "\n" not in str(raised.value)


def test_the_norm_may_be_given():
    run = with_norms([1.0] * 30)
    run = Run(run.name, {"optimizer": "mine"}, run.rows)
    assert refine(run, norm="l2").norm == "l2"
    with pytest.raises(ValueError, match="norm: expected"):
        refine(run, norm="max")


# --- the command ---------------------------------------------------------------------------------------------------

TASK = """
import torch
import lrscope as lrs

def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g)
    data = lrs.tasks.Batches(x, x.sum(1, keepdim=True), batch_size=16, shuffle=True)
    def loss(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
    return lrs.Task(lambda seed: torch.nn.Linear(3, 1), loss, data, data, name="sum", steps=40)
"""


def test_from_a_logged_run_to_the_next_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TASK)
    first = ["train", "mine.py:task", "0.01 * (warmup(10%) > linear(to=0))", "--optimizer", "adamw", "--out", "one"]
    assert call([*first, "--gradient-norms", "--watch-every", "0"]) == 0
    capsys.readouterr()
    assert call(["plan", "--refine", "one", "--steps", "80", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["norm"] == "l1"
    assert told["steps"] == 80
    assert told["written"] == "one/refined.json"
    assert call(["plan", "--refine", "one/runs/planned.jsonl", "--steps", "80", "--out", "two"]) == 0
    shown = capsys.readouterr().out
    assert "refined from 40 gradient norms (l1)" in shown
    assert "lrscope train TASK two/refined.json --steps 80" in shown
    next_run = [
        "train",
        "mine.py:task",
        "two/refined.json",
        "--optimizer",
        "adamw",
        "--steps",
        "80",
        "--out",
        "three",
    ]
    assert call([*next_run, "--watch-every", "0"]) == 0
    ran = Run.read(tmp_path / "three" / "runs" / "planned.jsonl")
    stored = from_spec(json.loads((tmp_path / "two" / "refined.json").read_text())["schedule"])
    assert ran["lr"].value.tolist() == stored.values(80).tolist()
    assert call(["show", "two/refined.json", "--steps", "80"]) == 0
    capsys.readouterr()
    assert call(["train", "mine.py:task", "two/refined.json", "--steps", "40", "--out", "four"]) == 2
    assert "is for 80 steps, the run has 40" in capsys.readouterr().err

    assert call([*first[:-1], "plain", "--watch-every", "0"]) == 0
    capsys.readouterr()
    for argv, code, said in [
        (["plan", "--refine", "plain"], 1, "has no gradient_norm_l1"),
        (["plan", "--refine", "nowhere"], 2, "--refine: nowhere does not exist"),
        (["plan", "--refine", "."], 2, "must hold one run, found none"),
        (["plan", "--refine", "mine.py"], 2, "not a run file"),
        (["plan", "mine.py:task", "--refine", "one"], 2, "takes no TASK"),
        (["plan", "mine.py:task", "--norm", "l1"], 2, "--norm: is for --refine RUN"),
        (["plan"], 2, "give a TASK to plan for, or --refine RUN"),
        (["train", "mine.py:task", "absent.json"], 2, "absent.json cannot be read"),
    ]:
        assert call(argv) == code, argv
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1, err
