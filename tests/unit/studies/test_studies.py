"""Studies: what they train, when they look, and that their numbers are those of the rooms below."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope import studies
from lrscope.errors import MeasurementError
from lrscope.landscape import barrier
from lrscope.records import strict_json
from lrscope.similarity import record, svcca
from lrscope.studies.layers import calibrated, matrix, recorded, same_layers
from lrscope.studies.runs import Keep, loaded, movement, trained, with_drops
from lrscope.studies.warmup import FROZEN, SMALL, WITH, WITHOUT, second_half

TASK = cases.TASKS["tuple"]()
NORM = cases.TASKS["batch_norm"]()
FIRST, *_, LAST = [n for n, m in NORM.model(0).named_modules() if isinstance(m, nn.Linear)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Runs.


def test_states_are_those_of_shorter_runs():
    schedule = lrs.schedules.Constant(0.05)
    _, states = trained(TASK, "sgd", schedule, 9, {0, 4, 9}, name="x", seed=2, out=None)
    assert list(states) == [0, 4, 9]
    assert same(states[0], TASK.model(2).state_dict())
    _, shorter = trained(TASK, "sgd", schedule, 4, {4}, name="x", seed=2, out=None)
    assert same(states[4], shorter[4])


def test_a_run_is_trained_once_in_its_directory_and_goes_on_after_a_stop(tmp_path):
    schedule, calls = lrs.schedules.Constant(0.05), []

    def told(what, share):
        calls.append((what, share))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(TASK, "sgd", schedule, 6, {2, 6}, name="x", seed=0, out=tmp_path, on_progress=told)
    run, states = trained(TASK, "sgd", schedule, 6, {2, 6}, name="x", seed=0, out=tmp_path, on_progress=told)
    assert len(calls) == 6
    assert calls[-1] == ("training: x", 1.0)
    again, found = trained(TASK, "sgd", schedule, 6, {2, 6}, name="x", seed=0, out=tmp_path, on_progress=told)
    assert len(calls) == 6
    assert again["loss"].value.tolist() == run["loss"].value.tolist()
    whole = trained(TASK, "sgd", schedule, 6, {2, 6}, name="x", seed=0, out=None)[1]
    for step in (2, 6):
        assert same(found[step], whole[step])
        assert same(states[step], whole[step])


def test_another_run_in_the_same_place_is_refused(tmp_path):
    trained(TASK, "sgd", lrs.schedules.Constant(0.05), 3, {3}, name="x", seed=0, out=tmp_path)
    with pytest.raises(ValueError, match="holds another run"):
        trained(TASK, "sgd", lrs.schedules.Constant(0.04), 3, {3}, name="x", seed=0, out=tmp_path)
    with pytest.raises(ValueError, match="holds another run"):
        trained(TASK, "adam", lrs.schedules.Constant(0.05), 3, {3}, name="x", seed=0, out=tmp_path)


def counted(calls):
    return lambda what, share: calls.append(what)


def test_a_run_of_another_task_of_that_name_is_refused(tmp_path):
    options = {"name": "x", "seed": 0, "out": tmp_path}
    trained(TASK, "sgd", lrs.schedules.Constant(0.05), 3, {3}, **options)
    x, y = cases.data(torch.float32)
    other = replace(TASK, train=lrs.tasks.Batches(x, y, batch_size=3))
    with pytest.raises(ValueError, match=r"out: .* holds another study's runs \(the task's first batch has another"):
        trained(other, "sgd", lrs.schedules.Constant(0.05), 3, {3}, **options)
    with pytest.raises(ValueError, match="temperature: stored None, asked 2"):
        trained(TASK, "sgd", lrs.schedules.Constant(0.05), 3, {3}, about={"temperature": 2}, **options)
    (tmp_path / "x-task.json").unlink()  # nothing says what the run is of
    with pytest.raises(ValueError, match="holds another study's runs"):
        trained(TASK, "sgd", lrs.schedules.Constant(0.05), 3, {3}, **options)


def test_states_at_other_steps_are_trained_for_again(tmp_path):
    schedule, calls = lrs.schedules.Constant(0.05), []
    options = {"name": "x", "seed": 0, "out": tmp_path, "on_progress": counted(calls)}
    _, first = trained(TASK, "sgd", schedule, 6, {2, 6}, **options)
    _, other = trained(TASK, "sgd", schedule, 6, {3, 6}, **options)
    assert len(calls) == 12
    assert same(first[6], other[6])
    _, whole = trained(TASK, "sgd", schedule, 6, {3}, name="x", seed=0, out=None)
    assert same(other[3], whole[3])
    trained(TASK, "sgd", schedule, 6, {2, 3}, **options)
    assert len(calls) == 12

    def stopped(what, share):
        if share > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(TASK, "sgd", schedule, 6, {6}, name="y", seed=0, out=tmp_path, on_progress=stopped)
    _, late = trained(TASK, "sgd", schedule, 6, {3, 6}, name="y", seed=0, out=tmp_path)
    assert same(late[3], whole[3])


def test_a_run_that_diverged_is_not_repeated_for_states_it_never_reached(tmp_path):
    task, calls = cases.TASKS["linear_squared"](), []
    options = {"name": "x", "seed": 0, "out": tmp_path, "on_progress": counted(calls)}
    run, states = trained(task, "sgd(momentum=0)", lrs.schedules.Constant(1e4), 30, {0, 30}, **options)
    assert run.status == "diverged"
    made = len(calls)
    _, again = trained(task, "sgd(momentum=0)", lrs.schedules.Constant(1e4), 30, {0, 30}, **options)
    assert len(calls) == made
    assert list(again) == list(states) == [0]


def test_tasks_and_directories_are_what_they_are_said_to_be(tmp_path):
    (tmp_path / "file").write_text("x")
    for study, options in (
        (studies.restarts, {"lr": 0.1, "period": 4}),
        (studies.warmup, {"lr": 0.1, "warmup_steps": 2, "steps": 4}),
        (studies.distillation, {"teacher": TASK.model(0), "lr": 0.1, "distilled_lr": 0.1, "steps": 4}),
    ):
        with pytest.raises(TypeError, match="task: expected a lrscope Task, got str"):
            study("digits", **options)
        with pytest.raises(ValueError, match=r"out: .*file is a file; give a directory"):
            study(TASK, **options, out=tmp_path / "file")


def test_drops_are_where_they_are_said_to_be():
    assert with_drops(1.0, 8, (0.5, 0.75)).values(8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert with_drops(2.0, 4, ()).values(4) == pytest.approx([2, 2, 2, 2])
    for drops in ((0.75, 0.5), (0.0, 0.5), (1.0,), (0.01,)):
        with pytest.raises(ValueError, match="drops: expected increasing shares"):
            with_drops(1.0, 8, drops)


def test_movement_is_relative_to_the_start():
    before = {"a.weight": torch.tensor([[3.0, 4.0]]), "a.bias": torch.zeros(2), "b.weight": torch.zeros(1, 1)}
    after = {"a.weight": torch.tensor([[3.0, 6.5]]), "a.bias": torch.ones(2), "b.weight": torch.ones(1, 1)}
    assert movement(before, after, "a") == pytest.approx(0.5)
    assert math.isnan(movement(before, after, "b"))


# Layers.


def test_layers_with_weights_are_compared_and_the_matrix_holds_the_measures():
    models = {"a": TASK.model(0), "b": TASK.model(1)}
    before = everything(models["a"])
    found = recorded(TASK, models)
    assert everything(models["a"]) == before
    assert list(found["a"]) == ["hidden.0", "hidden.2", "head"]
    values, chance = matrix(found["a"], found["b"], "cka")
    raw = {name: record(model, TASK) for name, model in models.items()}
    assert values[2, 1] == pytest.approx(
        float(lrs.similarity.cka(raw["a"]["head"], raw["b"]["hidden.2"], debiased=True))
    )
    assert chance.shape == (3, 3)
    diagonal = same_layers(found["a"], found["b"], "cka")
    assert [v for v, _ in diagonal.values()] == pytest.approx(np.diag(values).tolist())


def test_what_a_measure_cannot_say_is_nan_and_not_an_error():
    models = {"a": TASK.model(0), "b": TASK.model(1)}
    with torch.no_grad():
        models["a"].head.weight.zero_()  # all its answers are constant
    found = recorded(TASK, models)
    assert math.isnan(same_layers(found["a"], found["b"], "cka")["head"][0])
    values, _ = matrix(found["a"], found["b"], "cka")
    assert np.isnan(values[2]).all()
    assert np.isfinite(values[:2]).all()


def test_calibrated_statistics_are_those_of_the_training_set():
    model = NORM.model(0)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    seen = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    momentum = norm.momentum
    assert calibrated(NORM, model) is model
    handle.remove()
    n = torch.tensor([len(x) for x in seen], dtype=torch.float64)
    mean = sum(w * x.double().mean(0) for w, x in zip(n / n.sum(), seen, strict=True))
    var = sum(w * x.double().var(0) for w, x in zip(n / n.sum(), seen, strict=True))
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-6)
    assert norm.momentum == momentum
    assert model.training


# Restarts.


@pytest.fixture(scope="module")
def restarted():
    return studies.restarts(NORM, "sgd", lr=0.1, period=4, cycles=3, curve="chain", curve_steps=5, num_points=5)


def test_minima_are_just_before_the_restarts(restarted):
    found = restarted
    assert [p.steps for p in found.of("restarts")] == [(12, 28)]
    assert [p.steps for p in found.of("same epochs")] == [(12, 28)]
    assert [p.steps for p in found.of("around drops")] == [(10, 12), (20, 22), (10, 22)]
    rates = found.runs["restarts"]["lr"].value
    assert rates[12] == pytest.approx(0.1)
    assert rates[11] < rates[10]
    assert rates[27] < 0.01
    assert found.runs["steps"]["lr"].value[[0, 10, 11, 20, 21]] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    schedule = lrs.schedules.WarmRestarts(0.1, 1e-6, 4, 2, steps=28)
    _, states = trained(NORM, "sgd", schedule, 28, {12, 28}, name="x", seed=0, out=None)
    for step in (12, 28):
        assert same(found.states["restarts"][step], states[step])


@pytest.mark.filterwarnings("ignore:svcca")
def test_barriers_and_similarities_are_those_of_the_checkpoints(restarted):
    (pair,) = restarted.of("restarts")
    a, b = (restarted.states["restarts"][step] for step in pair.steps)
    assert pair.line.height == barrier(NORM, a, b, num_points=5).height
    assert pair.curve.path.kind == "chain"
    seen = {n: record(loaded(NORM, s), NORM) for n, s in (("a", a), ("b", b))}
    for layer, (value, chance) in pair.similarity.items():
        try:
            expected = svcca(seen["a"][layer], seen["b"][layer])
        except ValueError:
            assert math.isnan(value)
        else:
            assert (value, chance) == pytest.approx((expected.similarity, expected.chance))
    gradients = sum(r.cost.gradients for r in restarted.runs.values()) + 5 * len(restarted.pairs)
    assert restarted.cost.gradients == gradients


def test_a_study_is_told_drawn_and_found_again(restarted, tmp_path):
    stored = json.loads(strict_json(restarted.to_dict()))
    assert len(stored["pairs"]) == 5
    assert "barrier" in str(restarted)
    assert restarted.plot(role="same epochs").get_ylabel() == "training loss"
    assert len(restarted.figure().axes) == 5
    calls = []
    options = {"lr": 0.1, "period": 4, "cycles": 3, "curve": None, "num_points": 5, "out": tmp_path}
    one = studies.restarts(NORM, "sgd", **options)
    two = studies.restarts(NORM, "sgd", **options, on_progress=lambda what, share: calls.append(what))
    assert set(calls) == {"joining checkpoints"}
    assert [p.line.height for p in one.pairs] == [p.line.height for p in two.pairs]
    assert [p.line.height for p in one.pairs] == [p.line.height for p in restarted.pairs]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"period": 1}, "period: expected a whole number of at least 2, got 1"),
        ({"cycles": 1}, "cycles: expected a whole number of at least 2, got 1"),
        ({"first": 2}, "first: of 3 minima those from 2 on leave none to join; at most 1"),
        ({"roles": ("drops",)}, "roles: expected some of 'restarts', 'same epochs', 'around drops'"),
        ({"measure": "rsa"}, "measure: expected one of svcca, pwcca, cka, procrustes, got 'rsa'"),
        ({"curve": "spline"}, "curve: expected 'chain', 'bezier' or None, got 'spline'"),
        ({"curve_steps": 0}, "curve_steps: expected a whole number of at least 1, got 0"),
        ({"curve_lr": -1.0}, "curve_lr: expected a finite learning rate above 0, got -1.0"),
        ({"num_points": 2}, "num_points: expected a whole number of at least 3, got 2"),
        ({"lr": "0.1"}, "lr: expected a finite learning rate above 0, got '0.1'"),
        ({"layers": "heat"}, r"layers: no layer 'heat' \(did you mean 'head'\?\)"),
    ],
)
def test_what_cannot_be_restarted_is_refused(options, says):
    calls = []
    with pytest.raises(ValueError, match=says):
        studies.restarts(TASK, **{"lr": 0.1, "period": 4, "cycles": 3, **options}, on_progress=counted(calls))
    assert not calls


def test_one_role_is_a_word():
    found = studies.restarts(TASK, lr=0.1, period=2, cycles=2, first=0, curve=None, num_points=3, roles="restarts")
    assert [pair.role for pair in found.pairs] == ["restarts"]


def test_a_run_that_diverges_has_no_minima():
    with pytest.raises(
        MeasurementError,
        match=r"restarts: the run diverged at step \d+, before its checkpoint at step \d+; give a lower lr",
    ):
        studies.restarts(cases.TASKS["linear_squared"](), lr=1e4, period=4, cycles=2, first=0, curve=None)


# Warmup.


@pytest.fixture(scope="module")
def warmed():
    small = cases.TASKS["batch_norm"]()
    small = lrs.Task(small.build, small.loss_fn, lrs.tasks.Batches(*cases.data(torch.float32), batch_size=4))
    return studies.warmup(
        NORM, lr=0.05, warmup_steps=4, steps=10, small=(small, 0.01), deep=[LAST], measure="cka", seed=1
    )


def test_runs_differ_in_warmup_and_in_what_is_held_and_in_nothing_else(warmed):
    assert list(warmed.runs) == [WITH, WITHOUT, FROZEN, SMALL]
    assert warmed.runs[WITH]["lr"].value == pytest.approx(
        [0.0125, 0.025, 0.0375, 0.05, 0.05, *[0.005] * 3, 5e-4, 5e-4]
    )
    assert warmed.runs[WITHOUT]["lr"].value == pytest.approx([*[0.05] * 5, *[0.005] * 3, 5e-4, 5e-4])
    assert warmed.runs[FROZEN].config["frozen"] == {LAST: 4}
    assert warmed.runs[SMALL].config["steps"] == 20
    firsts = [run["loss"].value[0] for name, run in warmed.runs.items() if name != SMALL]
    assert len(set(firsts)) == 1


def test_held_layers_do_not_move_and_answer_otherwise(warmed):
    assert warmed.movement[FROZEN][LAST] == 0
    assert all(value > 0 for name in (WITH, WITHOUT) for value in warmed.movement[name].values())
    assert warmed.movement[WITH][FIRST] < warmed.movement[WITHOUT][FIRST]
    assert warmed.similarity[FROZEN][LAST][0] < 1  # its input has changed
    assert set(warmed.scores[WITH]) == {"eval_loss", *NORM.metrics}
    assert warmed.cost.gradients == 10 + 10 + 10 + 20


def test_the_study_of_warmup_is_told_and_drawn(warmed):
    stored = json.loads(strict_json(warmed.to_dict()))
    assert stored["layers"] == list(warmed.layers)
    assert "no warmup" in str(warmed)
    assert len(warmed.figure().axes) == 4
    assert [line.get_label() for line in warmed.plot().get_lines()][:2] == [WITH, WITHOUT]


DIVERGING = 3.0  # twice the largest stable rate or so: thousandfold after some ten steps


def test_a_run_that_diverges_is_part_of_the_study():
    task = cases.TASKS["linear_squared"]()
    found = studies.warmup(task, lr=DIVERGING, warmup_steps=2, steps=60, deep=["bias"], measure="cka", drops=())
    assert {run.status for run in found.runs.values()} == {"diverged"}
    assert math.isnan(found.scores[WITHOUT]["eval_loss"])
    with pytest.raises(MeasurementError, match="lr: every run diverged within the first 20 steps"):
        studies.warmup(task, lr=1e6, warmup_steps=20, steps=30, deep=["bias"], drops=())


def test_the_deep_half():
    assert second_half(TASK.model(0)) == ["head.*"]
    with pytest.raises(ValueError, match="deep: the model has 1 layer"):
        second_half(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"warmup_steps": 0}, "warmup_steps: expected a whole number between 1 and 9, got 0"),
        ({"warmup_steps": 10}, "warmup_steps: expected a whole number between 1 and 9, got 10"),
        ({"deep": ["heat"]}, r"frozen: 'heat' matches no trainable parameter \(did you mean 'head'"),
        ({"drops": (0.9, 0.1)}, "drops: expected increasing shares"),
        ({"deep": "heat"}, r"frozen: 'heat' matches no trainable parameter"),
        ({"layers": ["heat"]}, "layers: no layer 'heat'"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"lr": math.nan}, "lr: expected a finite learning rate above 0, got nan"),
        ({"small": (TASK, 0)}, "small: expected a finite learning rate above 0, got 0"),
    ],
)
def test_what_cannot_be_warmed_is_refused(options, says):
    calls = []
    settings = {"lr": 0.1, "warmup_steps": 3, "steps": 10, **options}
    with pytest.raises(ValueError, match=says):
        studies.warmup(TASK, **settings, on_progress=counted(calls))
    assert not calls


def test_the_small_task_comes_with_its_rate():
    with pytest.raises(TypeError, match="small: expected a pair of a lrscope Task and its learning rate"):
        studies.warmup(TASK, lr=0.1, warmup_steps=3, steps=10, small=TASK)


# Distillation.


@pytest.fixture(scope="module")
def taught():
    teacher = loaded(
        TASK, trained(TASK, "adam", lrs.schedules.Constant(0.02), 60, {60}, name="t", seed=9, out=None)[1][60]
    )
    before = everything(teacher)
    found = studies.distillation(
        TASK, teacher, "sgd", lr=0.1, distilled_lr=0.02, steps=20, seeds=(0, 1), measure="cka", temperature=2.0
    )
    assert everything(teacher) == before
    return teacher, found


def test_matrices_are_those_of_the_students(taught):
    teacher, found = taught
    assert found.matrices["distilled"].shape == (2, 3, 3)
    student = lrs.tasks.distill(TASK, teacher, 2.0)
    _, states = trained(student, "sgd", with_drops(0.02, 20, (0.5, 0.75)), 20, {20}, name="x", seed=1, out=None)
    seen = recorded(TASK, {"s": loaded(TASK, states[20]), "t": teacher})
    assert found.matrices["distilled"][1] == pytest.approx(matrix(seen["s"], seen["t"], "cka")[0])
    mean = found.matrices["distilled"].mean(0) - found.matrices["alone"].mean(0)
    assert found.difference == pytest.approx(mean)
    assert found.by_layer["head"] == pytest.approx(np.abs(mean[2]).mean())
    pairs = found.matrices["distilled"][:, 0, 0] - found.matrices["alone"][:, 0, 0]
    assert found.stderr[0, 0] == pytest.approx(abs(pairs[0] - pairs[1]) / 2)  # the standard error of two
    assert found.cost.gradients == 4 * 20


def test_students_of_one_seed_start_alike_and_are_judged_by_the_task(taught):
    _, found = taught
    for seed in (0, 1):
        model = loaded(
            TASK,
            trained(TASK, "sgd", with_drops(0.1, 20, (0.5, 0.75)), 20, {20}, name="x", seed=seed, out=None)[1][20],
        )
        assert found.scores["alone"]["eval_loss"][seed] == pytest.approx(
            lrs.training.evaluate(TASK, model)["eval_loss"]
        )
    with pytest.raises(ValueError, match="metric: 'f1' was not evaluated; choose one of eval_loss"):
        found.gain("f1")
    assert found.gain("eval_loss") == pytest.approx(
        np.mean(found.scores["distilled"]["eval_loss"]) - np.mean(found.scores["alone"]["eval_loss"])
    )


def test_the_study_of_distillation_is_told_and_drawn(taught):
    _, found = taught
    stored = json.loads(strict_json(found.to_dict()))
    assert len(stored["matrices"]["alone"]) == 2
    assert "difference of cka" in str(found)
    both = found.scores["alone"]["eval_loss"]
    error = abs(both[0] - both[1]) / 2  # the standard error of two
    assert f"alone {np.mean(both):.4g} ± {error:.2g}\n" in str(found)
    assert len(found.figure().axes) == 4
    assert found.plot().get_ylabel() == "student layer"


def test_noise_of_the_difference_is_what_equal_students_show():
    """Two groups drawn alike: the mean absolute difference is about the noise that is reported."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        both = {kind: rng.normal(0.5, 0.1, (4, 1, 30)) for kind in ("distilled", "alone")}
        found = studies.Distillation(
            ("s",), tuple(map(str, range(30))), both, np.zeros((1, 30)), {}, {}, "cka", lrs.records.Cost()
        )
        ratios.append(found.by_layer["s"] / found.noise_by_layer["s"])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_what_cannot_be_taught_is_refused():
    teacher = TASK.model(0)
    for options, error, says in [
        ({"seeds": ()}, ValueError, "seeds: got none"),
        ({"temperature": 0}, ValueError, "temperature: expected a number above 0"),
        ({"measure": "x"}, ValueError, "measure"),
        ({"seeds": 3}, TypeError, r"seeds: expected some whole numbers such as \(0, 1, 2\), got 3"),
        ({"seeds": (0, 0)}, ValueError, r"seeds: \(0, 0\) names one twice"),
        ({"steps": 0}, ValueError, "steps: expected a whole number of at least 1, got 0"),
        ({"layers": "heat"}, ValueError, "layers: no layer 'heat'"),
        ({"teacher_layers": "heat"}, ValueError, "teacher_layers: no layer 'heat'"),
        ({"distilled_lr": -1}, ValueError, "distilled_lr: expected a finite learning rate above 0, got -1"),
        ({"lr": 1e9}, MeasurementError, "lr: the student alone of seed 0 diverged; give a lower rate"),
        ({"distilled_lr": 1e9}, MeasurementError, "distilled_lr: the student distilled of seed 0 diverged"),
    ]:
        settings = {"lr": 0.1, "distilled_lr": 0.1, "steps": 5, "seeds": (0,), **options}
        with pytest.raises(error, match=says):
            studies.distillation(cases.TASKS["relu"](), teacher, "sgd(momentum=0)", **settings)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_of_one_seed_the_noise_is_unknown():
    found = studies.distillation(
        TASK, TASK.model(1), "sgd", lr=0.1, distilled_lr=0.02, steps=4, seeds=(0,), measure="cka"
    )
    assert all(math.isnan(v) for v in found.noise_by_layer.values())
    assert "(noise unknown)" in str(found)


def test_without_an_evaluation_set_there_are_no_scores():
    task = replace(TASK, evaluate=None, metrics={})
    settings = {"lr": 0.1, "distilled_lr": 0.02, "steps": 4, "seeds": (0, 1), "measure": "cka"}
    found = studies.distillation(task, task.model(1), "sgd", **settings)
    assert str(found).startswith("difference of cka")
    assert math.isnan(found.gain("eval_loss"))
    found.figure()


def test_a_directory_belongs_to_one_teacher_and_one_loss(tmp_path):
    teacher, settings = TASK.model(1), {"lr": 0.1, "distilled_lr": 0.02, "steps": 4, "seeds": (0,), "measure": "cka"}
    one = studies.distillation(TASK, teacher, "sgd", **settings, out=tmp_path)
    calls = []
    two = studies.distillation(TASK, teacher, "sgd", **settings, out=tmp_path, on_progress=counted(calls))
    assert not calls
    assert one.scores == two.scores
    nearly = loaded(TASK, teacher.state_dict())
    with torch.no_grad():
        next(nearly.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(ValueError, match=r"holds another study's runs .*the teacher has other weights"):
        studies.distillation(TASK, nearly, "sgd", **settings, out=tmp_path)
    for other in ({"temperature": 1.0}, {"weight": 0.5}, {"scale": False}):
        with pytest.raises(ValueError, match=f"holds another study's runs .*{next(iter(other))}: stored"):
            studies.distillation(TASK, teacher, "sgd", **settings, **other, out=tmp_path)


def test_keep_says_nothing_of_steps_that_were_not_reached():
    keep = Keep({1, 5})
    lrs.train(TASK, "sgd", lrs.schedules.Constant(0.1), 3, probes=[keep])
    assert list(keep.states) == [1]
