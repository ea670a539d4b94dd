"""Optuna on a tiny task: the objective is the sweep's own cell, trials travel both ways, pruning knows catapults."""

import math
import sys

import pytest

optuna = pytest.importorskip("optuna")

import lrscope as lrs  # noqa: E402
from lrscope.errors import MissingExtraError  # noqa: E402
from lrscope.sweeps import sweep  # noqa: E402
from lrscope.sweeps.optuna import as_distribution, from_study, objective, pruner, to_study  # noqa: E402
from lrscope.sweeps.pruning import Judgement  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"lr": (1e-3, 30.0), "warmup": ["5%", "50%"]}


@pytest.fixture(scope="module")
def grid():
    return sweep("digits", lr=[0.01, 0.1, 30.0], warmup=["5%", "50%"], steps=20, engine="serial")


def test_the_objective_is_the_cell_of_a_sweep(grid):
    study = optuna.create_study()
    study.enqueue_trial({"lr": 0.1, "warmup": "50%"})
    study.optimize(objective("digits", steps=20, space=SPACE), n_trials=1)
    (row,) = from_study(study).rows()
    (cell,) = grid.table.where(lr=0.1, warmup="50%").rows()
    assert study.best_value == pytest.approx(cell["eval_loss"], rel=1e-6)
    for name in ("lr", "warmup", "seed", "cell", "status", "first_loss", "trains", "warmup_steps"):
        assert row[name] == (pytest.approx(cell[name]) if name == "first_loss" else cell[name])


def test_a_run_that_diverges_is_pruned_and_its_row_says_so():
    study = optuna.create_study()
    study.enqueue_trial({"lr": 30.0, "warmup": "5%"})
    study.optimize(objective("digits", steps=20, space={**SPACE, "lr": (1e-3, 1e3)}, optimizer="sgd"), n_trials=1)
    study.enqueue_trial({"lr": 1e3, "warmup": "5%"})
    study.optimize(objective("digits", steps=20, space={**SPACE, "lr": (1e-3, 1e3)}), n_trials=1)
    assert study.trials[-1].state == optuna.trial.TrialState.PRUNED
    assert from_study(study)["status"][-1] == "diverged"


def test_a_sweep_goes_into_a_study_and_comes_back_the_same(grid):
    study = optuna.create_study()
    added = to_study(grid.table, study)
    assert added == len(grid.table)
    back = from_study(study)
    assert [{k: v for k, v in row.items() if k != "trial"} for row in back.rows()] == list(grid.table.rows())
    assert to_study(grid.table, study) == 0
    done = [r["eval_loss"] for r in grid.table.rows() if r["status"] == "finished"]
    assert study.best_value == min(done)
    states = [t.state.name for t in study.trials]
    assert states == [{"finished": "COMPLETE", "diverged": "PRUNED"}[s] for s in grid.table["status"]]


def test_the_search_goes_on_from_a_sweep(grid):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=2), pruner=pruner())
    to_study(grid.table, study, axes=SPACE)
    study.optimize(objective("digits", steps=20, space=SPACE), n_trials=3)
    table = from_study(study)
    assert len(table) == len(grid.table) + 3
    assert table["trial"] == list(range(len(table)))
    assert lrs.sweeps.SweepTable is type(table)


def test_trials_of_others_come_with_parameters_and_value():
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1.0) ** 2, n_trials=2)
    table = from_study(study)
    assert table["final_loss"] == [pytest.approx(lr**2) for lr in table["lr"]]
    assert table["status"] == ["finished"] * 2
    best = optuna.create_study(direction="maximize")
    best.optimize(lambda trial: trial.suggest_int("width", 1, 9), n_trials=1)
    assert "final_loss" not in from_study(best).columns


def test_the_pruner_forgives_a_catapult_and_not_a_loss():
    judge = Judgement(patience=100)
    catapult = {s: 1.0 + 5.0 * (50 <= s <= 120) for s in range(10, 300, 10)}
    assert not any(judge.lost({s: v for s, v in catapult.items() if s <= end}) for end in catapult)
    up = {s: 1.0 + 0.1 * (s > 50) for s in range(10, 300, 10)}
    assert next(end for end in up if judge.lost({s: v for s, v in up.items() if s <= end})) == 150
    assert judge.lost({10: 1.0, 20: math.inf})
    assert not judge.lost({})


def test_the_pruner_compares_after_the_warmup_only():
    judge = Judgement(startup=4)
    others = [{s: 2.0 - 0.01 * s + 0.01 * i for s in range(10, 110, 10)} for i in range(5)]
    late = dict.fromkeys(range(10, 60, 10), 2.0)
    assert judge.behind(late, others, since=0)
    assert not judge.behind(late, others, since=50)
    assert not judge.behind(late, others[:3], since=0)
    assert not judge.behind({s: v + 0.005 for s, v in others[2].items()}, others, since=0)


def test_the_pruner_prunes_in_a_study():
    study = optuna.create_study(pruner=pruner(startup=3, margin=5))
    for lr in (0.1, 0.12, 0.09):
        study.enqueue_trial({"lr": lr})
    study.enqueue_trial({"lr": 1e-6})
    study.optimize(objective("digits", steps=60, space={"lr": (1e-6, 1.0)}), n_trials=4)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    last = list(from_study(study).rows())[-1]
    assert last["status"] == "pruned"
    assert last["pruned_at"] < 60


def test_spaces():
    kinds = optuna.distributions
    assert as_distribution("lr", (1e-4, 1.0)) == kinds.FloatDistribution(1e-4, 1.0, log=True)
    assert as_distribution("momentum", (0.0, 0.99)) == kinds.FloatDistribution(0.0, 0.99)
    assert as_distribution("width", (16, 1024)) == kinds.IntDistribution(16, 1024, log=True)
    assert as_distribution("warmup", ["5%", 10]) == kinds.CategoricalDistribution(["5%", 10])
    assert as_distribution("steps", 20) == kinds.CategoricalDistribution([20])
    given = kinds.FloatDistribution(0.1, 1.0, step=0.1)
    assert as_distribution("x", given) is given


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({}, "expected ranges by name"),
        ({"lr": (1.0, 0.1)}, "is no range"),
        ({"lr": []}, "has no values"),
        ({"lr": (0.1, 1.0), "seed": [0, 1]}, "the seed is no parameter"),
        ({"lr": (0.1, 1.0), "momentun": (0.0, 0.9)}, "did you mean 'momentum'"),
    ],
)
def test_spaces_that_cannot_be_meant_are_refused_before_any_trial(space, says):
    with pytest.raises(ValueError, match=says):
        objective("digits", steps=20, space=space)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lrscope\[optuna\]'"):
        pruner()
