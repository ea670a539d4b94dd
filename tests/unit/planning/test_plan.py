"""The planner: on problems whose answer is known, on its log, on refusals, and on what it must not touch."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope.planning import recipe, warmup_steps
from lrscope.planning.plan import MIN_GRADIENTS
from lrscope.planning.search import Horizons, search
from lrscope.planning.trials import Trial, Trials
from lrscope.planning.verdict import CellScore, choose, expected_loss, final_cells, peak_interval
from lrscope.records import Plan
from lrscope.schedules import from_spec, parse

KEYS = ("horizon", "lr", "warmup_frac", "seed")


@given(
    peak=st.floats(1e-6, 1e3),
    steps=st.integers(1, 400),
    frac=st.floats(0, 0.99),
    decay=st.sampled_from(["linear", "cosine"]),
)
def test_the_recipe_is_its_formula(peak, steps, frac, decay):
    W = warmup_steps(frac, steps)
    values = recipe(peak, W, steps, decay).values(steps)
    t = np.arange(steps)
    s = (t - W + 1) / (steps - W + 1)
    fall = 1 - s if decay == "linear" else (1 + np.cos(np.pi * s)) / 2
    assert np.allclose(values, peak * np.where(t < W, (t + 1) / W, fall), rtol=1e-9, atol=1e-12 * peak)
    assert values.min() > 0
    assert np.isclose(values.max(), peak)
    assert np.argmax(values) == W - 1


class Valley(nn.Module):
    """A quadratic: its steepest direction diverges above 2/h, its flattest wants as large a rate as it gets."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("h", torch.tensor([1.0, 0.1, 0.001], dtype=torch.float64))


def valley(scale=1.0):
    return lrs.Task(
        build=lambda seed: Valley(),
        loss_fn=lambda m, b: scale * b.mean() * (0.5 * (m.h * m.x**2).sum() + 1e-3),
        train=[torch.ones(2, dtype=torch.float64)],
        evaluate=[torch.ones(2, dtype=torch.float64)],
        name="valley",
    )


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-3])
def test_on_a_quadratic_the_peak_is_near_the_largest_stable_one_whatever_the_scale(scale):
    """Without noise, faster is better until 2/h_max; decay lets the peak lie somewhat above it."""
    plan = lrs.plan(valley(scale), "sgd(momentum=0)", 200, engine="serial")
    assert all(c.status == "found" for c in plan.critical)
    assert 0.5 * 2 / scale <= plan.peak_lr <= 8 * 2 / scale
    assert plan.peak_low <= plan.peak_lr <= plan.peak_high
    stable = [r for r in plan.trials.rows() if r["status"] == "finished"]
    assert max(r["lr"] for r in stable) * scale < 16


def check_consistent(plan: Plan, task: lrs.Task) -> None:
    schedule = from_spec(plan.schedule)
    assert schedule(0) == plan.start_lr
    assert schedule.values(plan.steps).max() == pytest.approx(plan.peak_lr)
    assert np.argmax(schedule.values(plan.steps)) == plan.warmup_steps - 1
    again = parse(plan.schedule_text, horizon=plan.steps)
    assert np.allclose(again.values(plan.steps), schedule.values(plan.steps), rtol=1e-12)
    assert json.loads(json.dumps(plan.to_dict())) == Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).to_dict()
    spent = sum(plan.trials["gradients"])
    assert plan.cost.gradients == pytest.approx(spent + sum(c.cost.gradients for c in plan.critical))
    assert plan.share == pytest.approx(plan.cost.in_gradients() / plan.steps)
    assert set(plan.trials["rung"]) == {1, 2, 3}
    assert len({(r["lr"], r["warmup_frac"]) for r in plan.trials.rows() if r["rung"] == 3}) <= 3 + 2
    if plan.expected_loss is not None:
        assert plan.expected_low <= plan.expected_loss <= plan.expected_high


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["dict", "loader", "batch_norm", "dropout", "attention"])
def test_a_plan_agrees_with_its_own_evidence(name, optimizer):
    task = cases.TASKS[name]()
    before = everything(loader=task.train)
    plan = lrs.plan(task, optimizer, 80, budget=10, num_seeds=2)
    assert everything(loader=task.train) == before
    check_consistent(plan, task)
    best = choose(final_cells(list(plan.trials.rows())))
    assert (plan.peak_lr, plan.warmup_steps) == (best.lr, warmup_steps(best.warmup_frac, plan.steps))
    kind = "eval_loss" if task.evaluate is not None else "train_loss"
    assert set(plan.trials["score_kind"]) == {kind}


@pytest.mark.parametrize("warmups", [(0.0,), (0.33,), (0.0, 0.05, 0.1, 0.2, 0.33, 0.5)])
def test_the_budget_is_kept_whatever_the_warmups(warmups):
    plan = lrs.plan(cases.TASKS["tuple"](), "sgd", 400, budget=10, warmups=warmups, engine="serial")
    assert plan.share <= 10 * 1.15
    assert {r["warmup_frac"] for r in plan.trials.rows()} == set(warmups)


def test_the_last_rung_goes_on_past_an_edge():
    """A task whose best peak grows with the length of the run, as with warmup counted in steps."""
    task = cases.TASKS["tuple"]()
    spec = lrs.optimizers.OptimizerSpec.parse("sgd")
    trials = Trials(task, spec, "linear")

    def run(wanted, rung):
        for t in wanted:
            score = abs(math.log2(t.lr * 64 / t.horizon)) + 1
            row = {"lr": t.lr, "warmup_frac": t.warmup_frac, "seed": t.seed, "score": score, "rung": rung}
            row |= {"horizon": t.horizon, "gradients": t.horizon, "forwards": 0.0, "seconds": 0.0}
            if row not in trials.rows:
                trials.rows.append(row)
        return [next(r for r in trials.rows if all(r[k] == getattr(t, k) for k in KEYS)) for t in wanted]

    trials.run = run
    search(trials, 64.0, Horizons(16, 64, 1024), 10**6, (0.0, 0.33), (0, 1), on_rung=lambda *_: None)
    best = choose(final_cells(trials.rows))
    # 1/4 was best at 16 steps and 1 at 64; 16 would be at 1024: from the highest finalist, 1, two steps and no more
    assert best.lr == 4.0
    assert len(best.scores) == 2


def test_the_same_question_gets_the_same_plan():
    first, second = (lrs.plan(cases.TASKS["tuple"](), "sgd", 80, budget=10, engine="serial") for _ in range(2))
    drop = {"cost", "environment", "trials", "critical"}  # these hold seconds
    assert [c.samples for c in first.critical] == [c.samples for c in second.critical]
    assert {k: v for k, v in first.to_dict().items() if k not in drop} == {
        k: v for k, v in second.to_dict().items() if k not in drop
    }


def test_an_interrupted_plan_goes_on_from_its_log(tmp_path):
    task, log = cases.TASKS["tuple"](), tmp_path / "trials.jsonl"
    whole = lrs.plan(task, "sgd", 80, budget=10, engine="serial")
    seen = []
    before = everything(loader=task.train)
    with pytest.raises(KeyboardInterrupt):
        lrs.plan(
            task,
            "sgd",
            80,
            budget=10,
            engine="serial",
            log=log,
            on_trial=seen.append,
            should_stop=lambda: len(seen) > 11,
        )
    assert everything(loader=task.train) == before
    known = log.read_text().splitlines()
    assert len(known) == len(seen) == 12
    log.write_text("\n".join(known) + '\n{"rung": 1, "hor')  # as a killed process leaves it
    more = []
    rest = lrs.plan(task, "sgd", 80, budget=10, engine="serial", log=log, on_trial=more.append)
    assert rest.schedule == whole.schedule
    assert len(more) == len(whole.trials) - 12
    scores = [(r["lr"], r["warmup_frac"], r["seed"], r["horizon"], r["score"]) for r in whole.trials.rows()]
    assert scores == [(r["lr"], r["warmup_frac"], r["seed"], r["horizon"], r["score"]) for r in rest.trials.rows()]


def test_another_question_does_not_reuse_the_log(tmp_path):
    log = tmp_path / "trials.jsonl"
    run = [Trial(10, 0.1, 0.0, 0)]
    spec = lrs.optimizers.OptimizerSpec
    task = cases.TASKS["tuple"]()
    Trials(task, spec.parse("sgd"), "linear", log=log).run(run, 1)
    fresh = []
    Trials(task, spec.parse("sgd"), "linear", log=log, on_trial=fresh.append).run(run, 1)
    assert fresh == []
    Trials(task, spec.parse("adam"), "linear", log=log, on_trial=fresh.append).run(run, 1)
    Trials(task, spec.parse("sgd"), "cosine", log=log, on_trial=fresh.append).run(run, 1)
    assert len(fresh) == 2
    Trials(cases.TASKS["relu"](), spec.parse("sgd"), "linear", log=log, on_trial=fresh.append).run(run, 1)
    renamed = dataclasses.replace(cases.TASKS["relu"](), name="tuple")  # another model under the same name
    Trials(renamed, spec.parse("sgd"), "linear", log=log, on_trial=fresh.append).run(run, 1)
    assert len(fresh) == 4


def test_a_task_on_which_everything_diverges_says_so():
    class Cliff(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def loss_fn(model, batch):
        # Finite where it starts, infinite after any step at all.
        return torch.where(model.x == 1, 1.0, math.inf).sum() * batch.mean() + model.x.sum()

    task = lrs.Task(lambda seed: Cliff(), loss_fn, [torch.ones(2)], name="cliff")
    with pytest.raises(lrs.MeasurementError, match="every short run diverged"):
        lrs.plan(task, "sgd", 80, budget=10, engine="serial")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps: expected a positive integer"),
        ({"steps": 2.5}, "steps"),
        ({"budget": -1}, "budget"),
        ({"budget": 0.01}, r"budget: it buys 0 gradient evaluations.*give budget=6\.25 or more"),
        ({"warmups": ()}, "warmups"),
        ({"warmups": (0, 1.5)}, "warmups"),
        ({"decay": "expo"}, "decay: expected one of linear, cosine"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"optimizer": "lion"}, "lion"),
        ({"engine": "gpu"}, "engine"),
        ({"seed": -1}, "seed: expected an integer of 0 or more"),
        ({"seed": "a"}, "seed"),
        ({"warmups": "0,5%"}, "warmups"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, match):
    built = []
    task = cases.TASKS["tuple"]()

    def build(seed):
        built.append(seed)
        return task.build(seed)

    arguments = {"optimizer": "sgd", "steps": 80, "budget": 10.0} | change
    counted = lrs.Task(build, task.loss_fn, task.train, task.evaluate)
    with pytest.raises((ValueError, TypeError), match=match):
        lrs.plan(counted, arguments.pop("optimizer"), arguments.pop("steps"), **arguments)
    assert built == []


def test_the_default_budget_is_told_as_it_is():
    """The command line cannot import the number without importing torch, and prose cannot import at all."""
    root = Path(__file__).parents[3]
    told = [root / "src/lrscope/cli/plan.py", root / "docs/planning.md", root / "docs/decisions.md"]
    for file in told:
        assert f"at least {MIN_GRADIENTS:,}" in file.read_text(), file


def test_a_task_without_a_length_asks_for_one():
    task = lrs.Task(lambda seed: nn.Linear(1, 1), lambda m, b: m(b).mean(), [torch.ones(2, 1)])
    with pytest.raises(ValueError, match="names no length of its own"):
        lrs.plan(task)


@given(
    steps=st.integers(1, 100_000),
    gradients=st.integers(1, 200_000),
    num_warmups=st.integers(1, 12),
)
def test_horizons_grow_and_stay_in_budget(steps, gradients, num_warmups):
    columns = 5 * min(num_warmups, 2)
    if int(0.20 * gradients / columns) < 10:
        with pytest.raises(ValueError, match="give budget="):
            Horizons.for_budget(steps, gradients, num_warmups)
        return
    h = Horizons.for_budget(steps, gradients, num_warmups)
    assert 1 <= h.wide <= h.close <= h.most == steps
    assert h.wide * columns <= 0.20 * gradients
    assert h.close == h.wide or h.close * 3 * num_warmups <= 0.25 * gradients


def row(lr, warmup, seed, score, rung=3, horizon=100):
    return {"lr": lr, "warmup_frac": warmup, "seed": seed, "score": score, "rung": rung, "horizon": horizon}


def test_a_cell_that_diverged_for_one_seed_is_not_recommended():
    rows = [row(1, 0, 0, 0.1), row(1, 0, 1, None), row(0.5, 0, 0, 0.2), row(0.5, 0, 1, 0.2)]
    assert final_cells(rows)[0].lr == 0.5


def test_the_interval_reaches_half_way_to_what_was_told_apart():
    best = CellScore(0.2, 0.0, (1.0, 1.02, 0.98))
    same = CellScore(0.4, 0.0, (1.005, 1.02, 0.99))
    worse = CellScore(0.1, 0.0, (1.2, 1.22, 1.18))
    low, high = peak_interval(best, [best, same, worse], [0.05, 0.1, 0.2, 0.4, 0.8])
    assert low == pytest.approx(math.sqrt(0.1 * 0.2))
    assert high == pytest.approx(math.sqrt(0.4 * 0.8))


def test_runs_of_an_earlier_rung_count_where_the_lengths_are_equal():
    rows = [row(1, 0, 0, 0.1, rung=2), row(2, 0, 0, 0.05, rung=2), row(1, 0, 1, 0.3, rung=3)]
    assert [(c.lr, c.scores) for c in final_cells(rows)] == [(1, (0.1, 0.3))]


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_even_the_shortest_run_gets_a_plan(steps):
    plan = lrs.plan(cases.TASKS["linear_squared"](), "sgd", steps, budget=500.0)
    assert 1 <= plan.warmup_steps <= steps
    assert plan.expected_loss is not None


def test_of_cells_within_one_percent_the_lowest_peak_is_chosen():
    cells = [CellScore(0.4, 0.33, (1.0, 1.0)), CellScore(0.2, 0.0, (1.009, 1.009)), CellScore(0.1, 0.0, (1.02, 1.02))]
    assert choose(cells).lr == 0.2


def test_a_noisy_difference_does_not_tell_apart():
    best, noisy = CellScore(0.2, 0.0, (1.0, 1.4)), CellScore(0.4, 0.0, (1.5, 1.0))
    _, high = peak_interval(best, [best, noisy], [0.2, 0.4, 0.8])
    assert high > 0.4


def test_noise_near_divergence_is_no_virtue():
    best, wild = CellScore(0.2, 0.0, (1.0, 1.01)), CellScore(0.4, 0.0, (1.01, 1.6))
    _, high = peak_interval(best, [best, wild], [0.2, 0.4, 0.8])
    assert high == pytest.approx(math.sqrt(0.2 * 0.4))


def test_no_expectation_is_offered_too_far_from_the_evidence():
    rows = [row(0.1, 0, 0, 1.2, rung=2, horizon=50), row(0.1, 0, 0, 1.0), row(0.1, 0, 1, 1.02)]
    best = CellScore(0.1, 0.0, (1.0, 1.02))
    assert expected_loss(rows, best, 401) == (None, None, None)
    expected, low, high = expected_loss(rows, best, 200)
    assert 0 < low < expected < high
    here = math.sqrt(1.0 * 1.02)
    assert expected == pytest.approx(here * here / 1.2)  # as much again, in logs, for the next doubling
    assert expected_loss(rows, best, 100)[0] == pytest.approx(here)


def test_scores_below_zero_are_compared_by_size():
    rows = [row(0.1, 0, 0, -1.0, rung=2, horizon=50), row(0.1, 0, 0, -2.0), row(0.2, 0, 0, -2.01)]
    cells = final_cells(rows)
    assert [c.lr for c in cells] == [0.2, 0.1]
    assert choose(cells).lr == 0.1  # within one percent
    expected, low, high = expected_loss(rows, choose(cells), 200)
    assert low < expected < high < 0
